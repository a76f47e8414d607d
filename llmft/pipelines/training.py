"""Common to fine-tuning and distillation: train, evaluate during and after training, save the weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback

from llmft.arguments.run import RunArguments
from llmft.arguments.run_checks import check_rows
from llmft.cost.flops import inference_flops
from llmft.cost.phases import key_of
from llmft.evaluation.checkpoint_selection import Evaluations
from llmft.models.distributed import weights_on_rank_0
from llmft.models.parts.adapt import adapt, count_trainable
from llmft.models.parts.saving import save_student
from llmft.models.parts.stacked import name_start
from llmft.models.wrapping import bare_model, virtual_tokens
from llmft.pipelines.job import Job
from llmft.runs.ranks import all_gather, from_rank_0, rank_and_world
from llmft.runs.store import whole_folder
from llmft.training.callbacks import (
    EvaluateThenSave,
    KeepBestWeights,
    KeepProgress,
    LogDistances,
    ProgressBar,
    SayResumed,
    best_weights,
)
from llmft.training.checkpoints import read_progress
from llmft.training.ft_trainer import FtTrainer, collator
from llmft.training.preemption import EndOnceSaved, SaveWhenStopped
from llmft.training.reporting import reporting
from llmft.training.stop_at_nan import POSITION, StopAtNonFinite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.cost.phases import Phase
    from llmft.evaluation.scorer import Scorer
    from llmft.evaluation.scores import Scores


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes:
        scores: of stage `after`, and with `--eval_strategy` of the best ones, which are in the record already.
        metrics: entries for `metrics.json`.
        log: the training log.
    """

    scores: dict[str, dict[str, Scores]]
    metrics: dict[str, Any]
    log: list[dict[str, Any]]


def trainable(job: Job, model: PreTrainedModel, *, context_ids: Sequence[int] | None = None) -> torch.nn.Module:
    """The model with the part that the flags select made trainable; prints which weights these are.

    Args:
        context_ids: tokens of the context from which a cartridge is initialised; None if there is none.
    """
    with job.meter.phase("adapt") as phase:
        adapted = adapt(model, job.config.trained, context_ids, job.config.run.seed)
        if job.config.trained.use_cartridge:  # the model has read the tokens that it starts from
            start = virtual_tokens(adapted)
            phase.count(tokens=start, flops=inference_flops(model, start))
    if job.record.writes:
        print(count_trainable(adapted))
    return adapted


def train(
    job: Job,
    trainer_class: type[FtTrainer],
    student: Scorer,
    examples: Sequence[dict[str, Any]],
    *,
    reference: Mapping[str, Scores] | None = None,
    **trainer_arguments: Any,
) -> Trained:
    """Train the student's model (from the last checkpoint of an interrupted run, if there is one), evaluate it during training
    if requested and at the end, and save its weights.

    Args:
        reference: the teacher's scores of all evaluation sets, for logging the divergence; None if there is no teacher.

    Raises:
        InputError: too few examples are left, or a loss or weight is not finite.
    """
    run, counts = job.config.run, count_trainable(student.model)
    check_rows(run, len(examples))  # --answer_pattern may have dropped some since the run began
    run.output_dir = str(job.record.checkpoints)
    kept, run.save_total_limit = run.save_total_limit, None  # KeepProgress removes earlier checkpoints
    evaluations, saving = _evaluations(job, student, reference), SaveWhenStopped()
    with job.meter.phase("train") as phase, reporting(run, job.record.path):
        trainer = make_trainer(
            trainer_class,
            student,
            examples,
            run,
            finite=StopAtNonFinite(job.train_idx, job.model_name),
            callbacks=[saving, EvaluateThenSave()],  # before StopAtNonFinite, which must know what happens at the step's end
            eval_dataset=job.eval_sets,
            evaluations=evaluations,
            **trainer_arguments,
        )
        _add_callbacks(job, trainer, student, phase, kept)
        trainer.add_callback(EndOnceSaved(saving))  # after those that add to a checkpoint
        _restore(job, evaluations, trainer)
        with saving.preemption.listening():
            trainer.train(resume_from_checkpoint=job.resumed_from)
        trainer.count_work(phase)
    if run.save_final_model:
        _save(job, student, trainer.model, job.record.path / "model")
    if run.save_best_models and job.record.writes:
        for stage, best in evaluations.best.items():
            path = job.record.path / f"model_{stage}"
            with whole_folder(path) as aside:
                shutil.copytree(best_weights(job.record.checkpoints, best.step), aside, dirs_exist_ok=True)
                name_start(aside, path)
    stages = {stage: evaluation.scores for stage, evaluation in evaluations.stages.items()}
    for stage, scores in stages.items():
        job.keep(stage, student.answers, scores)
    metrics: dict[str, Any] = {"weights": counts.as_dict()}
    if run.eval_strategy != "no":
        metrics |= {"evaluations": evaluations.history, "selection": evaluations.selection}
    return Trained(stages, metrics, trainer.state.log_history)


def _evaluations(job: Job, student: Scorer, teacher: Mapping[str, Scores] | None) -> Evaluations:
    """The evaluations of a run; with --eval_strategy the best of each domain are kept."""
    names = () if job.config.run.eval_strategy == "no" else ("in_domain", "out_of_domain")
    domains = {name: list(sets) for name in names if (sets := job.data.groups[name])}
    score, measure = partial(job.score_sets, scorer=student), partial(job.metrics_of, student.answers)
    return Evaluations(score, measure, student.answers, domains, teacher)


def make_trainer(
    trainer_class: type[FtTrainer],
    student: Scorer,
    examples: Sequence[dict[str, Any]],
    run: RunArguments,
    **trainer_arguments: Any,
) -> FtTrainer:
    """The trainer of the student's model on the examples, with a progress bar if the output is a terminal."""
    trainer = trainer_class(
        model=student.model,
        args=run,
        train_dataset=[{**example, POSITION: i} for i, example in enumerate(examples)],
        loss_mean=run.loss_mean,
        **trainer_arguments,
    )
    trainer.collate_with(collator(student.model, student.answers.branches))  # the model is on its device now
    for printing in (PrinterCallback, ProgressCallback):  # the log goes to train_log.jsonl
        trainer.remove_callback(printing)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(ProgressBar())
    return trainer


def _add_callbacks(job: Job, trainer: FtTrainer, student: Scorer, phase: Phase, kept: int) -> None:
    run, evaluations = job.config.run, trainer.evaluations

    def progress() -> dict[str, Any]:
        trainer.count_work(phase)
        costs = all_gather(job.meter.as_dict())
        return {
            "costs": [cost["phases"] for cost in costs],
            "largest_process_bytes": [cost["total"]["largest_process_bytes"] for cost in costs],
            "saved": [[key, costs] for key, costs in job.saved().items()],
            "evaluations": evaluations.state(),
            "trainer": all_gather(trainer.progress()),
        }

    trainer.add_callback(KeepProgress(progress, kept))
    trainer.add_callback(SayResumed())
    if run.save_best_models:
        trainer.add_callback(KeepBestWeights(evaluations, partial(_save, job, student, trainer.model)))
    if run.log_l2_dist_per_weight:
        trainer.add_callback(LogDistances(student.model, trainer.log))


def _restore(job: Job, evaluations: Evaluations, trainer: FtTrainer) -> None:
    """Find the last checkpoint and restore costs, evaluations and the trainer's own progress from it."""
    checkpoint = job.record.last_checkpoint
    reached = read_progress(checkpoint) if checkpoint and job.record.writes else None
    job.resumed_from, reached = from_rank_0((checkpoint, reached))  # rank 0's view counts: disks may lag
    if reached is not None:
        rank, _ = rank_and_world()
        job.meter.add(reached["costs"][rank], reached["largest_process_bytes"][rank])
        job.paid_before = {key_of(phase) for costs in reached["costs"] for phase in costs if phase["tokens"]}
        job.saved_before = {tuple(key): costs for key, costs in reached.get("saved", [])}
        evaluations.restore(reached["evaluations"])
        trainer.restore(reached["trainer"][rank] or {})


def _save(job: Job, student: Scorer, model: torch.nn.Module, path: Path) -> None:
    """Save the trained part and the tokenizer in the form that `load_model` reads: the formats of transformers and peft if they
    have one.

    Args:
        model: the student's model, as the trainer has wrapped it.
    """
    stops = [stop for stop in student.answers.stops if stop not in job.task.stops]  # questions of another task have its own
    with job.meter.phase("save"), weights_on_rank_0(model, bare_model(model)):
        if job.record.writes:
            with whole_folder(path) as aside:
                save_student(model, aside, stops)
                name_start(aside, path)
                student.prompter.tokenizer.save_pretrained(str(aside))
