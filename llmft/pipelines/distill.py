"""Context distillation: a frozen teacher reads demonstrations and query; the student, starting from the same weights,
reads the query alone and learns to answer alike. The queries are training rows without their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmft.arguments import (
    AdapterArguments,
    CalibrationArguments,
    DataArguments,
    DemonstrationArguments,
    DistillationArguments,
    DistillationRunArguments,
    ModelArguments,
)
from llmft.errors import InputError
from llmft.pipelines.prepare import Job, prepare
from llmft.prompts.demonstrations import draw_training_rows

if TYPE_CHECKING:
    from llmft.evaluation.score import SplitScores

GROUPS = (
    ModelArguments,
    AdapterArguments,
    DataArguments,
    DemonstrationArguments,
    CalibrationArguments,
    DistillationArguments,
    DistillationRunArguments,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Distil a context into a model; evaluate teacher, student before and student after.

    Raises:
        InputError: the arguments are unusable.
    """
    job = prepare("distill", GROUPS, argv, description=__doc__)
    if job is None:
        return
    from llmft.evaluation.score import Asker
    from llmft.pipelines.training import train, trainable
    from llmft.training.context_distillation_trainer import ContextDistillationTrainer
    from llmft.training.teacher import teacher_targets

    if job.arguments(DemonstrationArguments).num_shots == 0:
        raise InputError("--num_shots 0: there is no context to distil; ask for 1 demonstration or more")
    teacher_format, student_format = job.prompt_format("teacher"), job.prompt_format("student")
    run = job.arguments(DistillationRunArguments)
    with job.meter.phase("load"):
        model, tokenizer = job.load()
        queries = draw_training_rows(
            job.data.train,
            job.arguments(DataArguments).max_train_samples,
            data_seed=run.data_seed,
            exclude=job.demonstrations,
        )
        asking = {"sample": queries[0], "queries_per_row": run.per_device_eval_batch_size}
        teacher = Asker.create(
            model,
            tokenizer,
            teacher_format,
            demonstrations=job.demonstrations,
            calibrate=job.arguments(CalibrationArguments).calibrate,
            **asking,
        )
        student = Asker.create(model, tokenizer, student_format, soft_prompt_tokens=job.trained.soft_prompt_tokens, **asking)
        prompts = student.prompts(queries)
        job.begin(teacher, student, train_rows=queries)
    with job.meter.phase("teacher") as phase:
        targets = teacher_targets(teacher, queries, phase)
    scores = {"teacher": job.score("teacher", teacher), "before": job.score("before", student)}
    model = trainable(job, model)
    examples = [{"input_ids": prompts.whole(i), "teacher_logprobs": target} for i, target in enumerate(targets)]
    log, trained = train(
        job,
        ContextDistillationTrainer,
        model,
        tokenizer,
        examples,
        label_ids=student.label_ids,
        temperature=job.arguments(DistillationArguments).temperature,
    )
    scores["after"] = job.score("after", student.with_model(model))
    job.finish({**compare(job, scores), **trained}, log)


def compare(job: Job, scores: dict[str, dict[str, SplitScores]]) -> dict[str, Any]:
    """What distillation is judged by beside accuracy: KL and agreement with the teacher, gap recovered, tokens a query."""
    from llmft.evaluation.metrics import agreement, gap_recovered, mean_kl
    from llmft.runs.show import pooled

    teacher, stages = scores["teacher"], job.record.stages
    students = {stage: scores[stage] for stage in ("before", "after")}

    def against(measure: Any) -> dict[str, dict[str, float]]:
        return {
            stage: {name: measure(teacher[name].label_logprobs, found[name].label_logprobs) for name in found}
            for stage, found in students.items()
        }

    gaps = {}
    for name, sets in {"in_domain": job.data.in_domain, "out_of_domain": job.data.out_of_domain}.items():
        if sets:
            gaps[name] = gap_recovered(*(pooled(stages[stage], list(sets)) for stage in ("teacher", "before", "after")))
    return {
        "kl": against(mean_kl),
        "agreement": against(agreement),
        "gap_recovered": gaps,
        "tokens_per_query": {
            "teacher": teacher[job.task.name].tokens_per_query,
            "student": scores["after"][job.task.name].tokens_per_query,
        },
    }
