"""Context distillation: a frozen teacher reads a context and a query; the student reads the query alone and learns to answer
alike. The queries are training rows without their labels, unless what is asked for needs those."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.arguments.data import CalibrationArguments, DataArguments, DemonstrationArguments
from llmft.arguments.deepspeed_config import zero_stage
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.methods import AdapterArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import DistillationRunArguments
from llmft.errors import InputError
from llmft.pipelines.job import Job
from llmft.pipelines.prepare import prepare
from llmft.pipelines.process import run_jobs
from llmft.pipelines.prompt_notes import say_prompts
from llmft.pipelines.prompting import prompt_format_of
from llmft.prompts.demonstrations import draw_training_rows
from llmft.tasks.load import say_note
from llmft.tasks.queries import leave_out, load_queries
from llmft.tasks.rows import left_out
from llmft.tasks.table import Row

if TYPE_CHECKING:
    import torch

    from llmft.distillation.targets import Targets
    from llmft.distillation.teacher import Teacher, Teachers
    from llmft.evaluation.scorer import Asker, SplitScores
    from llmft.pipelines.retention import Retention
    from llmft.pipelines.training import Trained

GROUPS = (
    ModelArguments,
    AdapterArguments,
    DataArguments,
    DemonstrationArguments,
    CalibrationArguments,
    DistillationArguments,
    DistillationRunArguments,
)


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Distil a context into a model; evaluate teacher, student before and student after.

    Returns:
        The folders of the runs.

    Raises:
        InputError: the arguments are unusable.
    """
    return run_jobs(prepare("distill", GROUPS, argv, description=__doc__), distil)


def distil(job: Job) -> None:
    """One run."""
    from llmft.pipelines.training import trainable

    flags = job.config.distillation
    check_flags(job, flags)
    with job.meter.phase("load"):
        teachers, student, queries, retention = load(job, flags)
    with job.meter.phase("teacher") as phase:
        precompute = flags.targets != "gold" and flags.teacher_mode == "precompute"
        targets = teacher_of(teachers, queries, flags).precompute(phase) if precompute else None
    scores = {"teacher": job.score("teacher", teachers), "before": job.score("before", student)}
    job.keep("before", retention.score("before", student.model))
    cache = teachers.askers[0].cache
    if flags.teacher_mode == "precompute":  # its answers are all that training needs: another model goes out of memory
        teachers = teachers.with_model(student.model)
    elif needs_copy(job, flags):
        teachers = teachers.with_model(copy.deepcopy(student.model))
    student = student.with_model(trainable(job, student.model, context_ids=teachers.askers[0].context_ids))
    trained = learn(job, student, queries, teachers, targets, scores["teacher"])
    job.keep("after", retention.score("after", student.model))
    metrics = compare(job, scores | trained.scores) | trained.metrics | retention.change(job.record.stages)
    if flags.evaluate_with_context:
        metrics["after_with_context"] = with_context(job, teachers.with_model(student.model))
    metrics["contexts"] = {
        "kinds": list(flags.contexts),
        "number": len(teachers.askers),
        "schedule": flags.context_schedule,
        "demonstrations": sum(map(len, job.contexts)),
    }
    if job.record.writes and flags.targets != "gold":  # whose student is not to become like the teacher
        for name in job.data.in_domain:  # in front of the table, the last that a sweep shows of a run
            say_how_far(name, metrics["kl"]["before"][name], metrics["kl"]["after"][name])
    prompts = {"teacher": [asker.prompt_format for asker in teachers.askers], "student": [student.prompt_format]}
    job.finish(metrics, trained.log, prompts=prompts, saved=cache.saved_but(job.paid_before) if cache else None)


def load(job: Job, flags: DistillationArguments) -> tuple[Teachers, Asker, list[Row], Retention]:
    """Who teaches, who learns (its model not made trainable yet), from which queries, and what else the student is asked.

    Raises:
        InputError: something is missing or does not fit together; past this, the run has a folder.
    """
    from llmft.pipelines.retention import Retention, retention_tasks
    from llmft.pipelines.teachers import ask_teachers, check_sizes, teacher_model, with_cache

    teacher_formats = [prompt_format_of(job, "teacher", number) for number in range(flags.num_contexts)]
    student_format = prompt_format_of(job, "student")
    calibrate = job.config.calibration.calibrate
    flags.objective.check_prompts(teacher_formats[0], student_format, calibrate=calibrate)
    job.load_data(num_contexts=flags.num_contexts if flags.reads("demonstrations") else 0)
    queries = draw_queries(job)
    model, tokenizer = job.load_model()
    teachers = ask_teachers(job, teacher_model(job, flags, tokenizer), teacher_formats, calibrate=calibrate)
    student = job.asker(model, tokenizer, student_format, trained=True)
    retention = Retention.create(retention_tasks(flags.retention_tasks, job.task.name), job, model, tokenizer)
    job.check_prompts(teachers, student, train_rows=queries)
    check_sizes(job, teachers.askers[0])
    job.check_start(model)
    teachers = with_cache(job, teachers)
    job.begin()
    say_prompts(job, {"teacher": teachers.askers[0], "student": student}, queries, trained_as="queries that are learnt from")
    return teachers, student, queries, retention


def check_flags(job: Job, flags: DistillationArguments) -> None:
    """What concerns several groups of arguments, before anything is loaded.

    Raises:
        InputError: arguments do not go together.
    """
    shots, data, run = job.config.shots, job.config.data, job.config.run
    if flags.reads("demonstrations") and shots.num_shots == 0 and shots.sample_indices_file is None:
        raise InputError("--num_shots 0: there is no context to distil; ask for 1 demonstration or more, or another --context")
    if job.config.trained.use_cartridge and flags.num_contexts > 1:
        raise InputError(f"--use_cartridge: starts as one context, there are --num_contexts {flags.num_contexts}; leave one out")
    for field in fields(shots):
        value = getattr(shots, field.name)
        if value != field.default and not flags.reads("demonstrations"):
            raise InputError(f"--{field.name} {value}: is read only with --context demonstrations; add that, or leave this out")
    if job.config.calibration.calibrate and flags.reads("label"):
        raise InputError("--calibrate: a content-free query has no label to show; leave it out with --context label")
    if run.deepspeed and needs_copy(job, flags):
        raise InputError(
            "--teacher_mode online: under DeepSpeed a student that changes its weights cannot also be its teacher; "
            "use precompute, an adapter, or --teacher_model_name_or_path"
        )
    if run.deepspeed and flags.teacher_mode == "online" and flags.context_schedule == "cycle" and zero_stage(run.deepspeed) == 3:
        raise InputError(
            "--context_schedule cycle: with --teacher_mode online under ZeRO-3 one process would wait for another's weights; "
            "use precompute, mean or zero2"
        )
    if data.multi_token_labels and (flags.support != "labels" or flags.ce_weight or flags.targets != "soft"):
        raise InputError("--multi_token_labels: goes with --support labels and --targets soft, without --ce_weight")


def draw_queries(job: Job) -> list[Row]:
    """Training rows, or rows of --query_file, that are in no context.

    Raises:
        InputError: there are fewer than asked for, or they lack the labels that are asked for.
    """
    flags, data = job.config.distillation, job.config.data
    shown = [row for context in job.contexts for row in context]
    needs = {"--context label": flags.reads("label"), "--targets gold": flags.targets == "gold", "--ce_weight": flags.ce_weight}
    needing = next((name for name, needed in needs.items() if needed), None)
    rows = job.data.train
    if flags.query_file is not None:
        rows = load_queries(flags.query_file, data, job.task, labels=needing is not None)
    candidates, shown_idx = rows, {row["idx"] for row in shown}
    rows = leave_out(candidates, shown, _source(job))  # by text: data sets hold some rows twice
    alike = len(candidates) - len(rows) - sum(row["idx"] in shown_idx for row in candidates)  # beside the demonstrations
    where = "the training rows" if flags.query_file is None else _source(job)
    note = left_out(where, len(candidates), {"with the texts of a demonstration": alike})
    if note:
        say_note(note)
    seed = job.config.run.data_seed
    queries = draw_training_rows(rows, data.max_train_samples, data_seed=seed, exclude=shown)
    if {row["idx"] for row in queries} & {row["idx"] for row in shown}:
        raise AssertionError("a query is a demonstration")
    if needing and any(row["label"] is None for row in queries):
        raise InputError(f"{needing}: needs the queries' labels, and some have none; leave it out, or give queries with labels")
    return queries


def _source(job: Job) -> str:
    """The flag, and its value, that says which queries are asked or, of training rows, which of them are shown instead."""
    files = {
        "query_file": job.config.distillation.query_file,
        "sample_indices_file": job.config.shots.sample_indices_file,
    }
    shots = f"--num_shots {job.config.shots.num_shots}"
    return next((f"--{name} {file}" for name, file in files.items() if file is not None), shots)


def with_context(job: Job, student: Teachers) -> dict[str, Any]:
    """Metrics of the student that reads the context all the same; why not, where both do not fit its window."""
    try:
        student.check_window([row for rows in job.eval_sets.values() for row in rows])
    except InputError as error:
        return {"skipped": str(error)}
    return job.metrics_of(job.score_sets("after with context", student))


def teacher_of(
    teachers: Teachers,
    queries: Sequence[Row],
    flags: DistillationArguments,
    frozen: Callable[[], AbstractContextManager[torch.nn.Module]] | None = None,
) -> Teacher:
    """Who answers the queries: all contexts each, or with `cycle` query i the context i mod m."""
    import numpy as np

    from llmft.distillation.teacher import Teacher

    context_of = np.arange(len(queries)) % len(teachers.askers) if flags.context_schedule == "cycle" else None
    return Teacher(teachers.askers, queries, flags.objective, context_of=context_of, frozen=frozen)


def needs_copy(job: Job, flags: DistillationArguments) -> bool:
    """Whether a teacher that reads along must be kept beside a student that changes its weights."""
    from llmft.models.parts.adapt import keeps_base

    reads_along = flags.teacher_mode == "online" and flags.teacher_model_name_or_path is None
    return reads_along and not keeps_base(job.config.trained.part)


def learn(
    job: Job,
    student: Asker,
    queries: Sequence[Row],
    teachers: Teachers,
    targets: Targets | None,
    reference: dict[str, SplitScores],
) -> Trained:
    """Train the student on the teacher's answers to the queries, or on their gold labels.

    Args:
        teachers: who reads along; with `targets`, or for gold labels, nobody does.
        targets: the precomputed answers.
        reference: the teacher's scores of all evaluation sets, to log the divergence from.
    """
    from llmft.distillation.trainer import ContextDistillationTrainer
    from llmft.models.parts.adapt import without_adapter
    from llmft.pipelines.training import train
    from llmft.training.ft_trainer import FtTrainer

    flags, prompts = job.config.distillation, student.prompts(queries)
    columns: dict[str, Any] = {"input_ids": [prompts.whole(i) for i in range(len(queries))]}
    if flags.targets != "soft" or flags.ce_weight:
        labels = targets.logprobs.argmax(1).tolist() if flags.targets == "hard" else [row["label"] for row in queries]
        columns["answer"] = [student.label_ids[label] for label in labels]
    trainer_class, learning = FtTrainer, {}
    if flags.targets == "soft":
        teacher = None
        if targets is None:
            keeps_start = flags.teacher_model_name_or_path is None and not needs_copy(job, flags)
            frozen = partial(without_adapter, student.model) if keeps_start else partial(nullcontext, teachers.askers[0].model)
            teacher = teacher_of(teachers, queries, flags, frozen)
            columns["query"] = range(len(queries))
        else:
            columns["teacher_logprobs"] = targets.logprobs
            if targets.tokens is not None:
                columns["teacher_tokens"] = targets.tokens
        trainer_class = ContextDistillationTrainer
        learning = {"choices": flags.objective, "label_sequences": student.label_sequences, "teacher": teacher}
    examples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return train(job, trainer_class, student, examples, reference=reference, **learning)


NEAR = 1e-3
"""KL, in nats, of a student that has nothing to learn from its teacher."""
HARDLY_MOVED, MOVED_AWAY = 0.8, 1.25
"""KL after training / KL before, from where on a student has hardly moved, or has moved away from its teacher."""


def say_how_far(name: str, before: float, after: float) -> None:
    """Say so where training has not brought the student nearer to its teacher.

    Args:
        name: the evaluation set.
        before: KL of the student from its teacher in front of training, in nats.
        after: the same behind training.
    """
    if before < NEAR or after <= HARDLY_MOVED * before:
        return
    figures = f"KL to the teacher on {name} was {before:.3f} and is {after:.3f}"
    if after < MOVED_AWAY * before:
        print(
            f"the student has hardly moved: {figures}; try a --learning_rate 3 to 10 times as high, more --num_train_epochs, or "
            "more queries (--max_train_samples)"
        )
    else:
        print(f"the student has moved away from its teacher: {figures}; try a --learning_rate 3 to 10 times as low")


def compare(job: Job, scores: dict[str, dict[str, SplitScores]]) -> dict[str, Any]:
    """What distillation is judged by beside accuracy: KL and agreement with the teacher, gap recovered, tokens a query."""
    from llmft.evaluation.labels import agreement, gap_recovered, mean_kl
    from llmft.runs.summary import pooled

    teacher, stages = scores["teacher"], job.record.stages

    def against(measure: Any) -> dict[str, dict[str, float]]:
        return {
            stage: {name: measure(teacher[name].label_logprobs, student.label_logprobs) for name, student in sets.items()}
            for stage, sets in scores.items()
            if stage != "teacher"
        }

    return {
        "kl": against(mean_kl),
        "agreement": against(agreement),
        "gap_recovered": {
            group: gap_recovered(*(pooled(stages[stage], list(sets)) for stage in ("teacher", "before", "after")))
            for group, sets in job.data.groups.items()
            if sets
        },
        "tokens_per_query": {
            "teacher": teacher[job.task.name].tokens_per_query,
            "student": scores["after"][job.task.name].tokens_per_query,
        },
    }
