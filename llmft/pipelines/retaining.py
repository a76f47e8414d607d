"""What a student is to keep: its answers, as the model before gives them, to prompts that have nothing to do with the context."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmft.tasks.queries import RETAINED, load_queries

if TYPE_CHECKING:
    from llmft.distillation.trainer import Retained
    from llmft.evaluation.answer_cache import AnswerCache
    from llmft.evaluation.scorer import Scorer
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row


def retained_rows(job: Job, student: Scorer) -> list[Row]:
    """The prompts of `--retain_file`; none where there is no such file.

    Raises:
        InputError: the file cannot be read, or a prompt does not fit the model's window.
    """
    file = job.config.distillation.retain_file
    if file is None:
        return []
    rows = load_queries(file, job.config.data, job.task, labels=False, flag=RETAINED)
    rows = [{**row, "answer": (), "answer_ids": None, "document": None} for row in rows]
    student.check_window(rows)
    return rows


def retained(job: Job, student: Scorer, rows: list[Row], cache: AnswerCache | None) -> Retained | None:
    """The prompts as training examples, with the answers and distributions of the model as it is; None for no prompts.

    Args:
        student: asks the model before training.
        cache: of that model's answers.
    """
    from llmft.distillation.teacher import Teacher
    from llmft.distillation.trainer import Retained, with_targets
    from llmft.models.parts.head import logits_width

    flags = job.config.distillation
    if not rows:
        return None
    topk = min(flags.topk, logits_width(student.model))
    objective = replace(flags.objective, support="topk", topk=topk, ce_weight=0.0)
    scorer = replace(student, cache=cache)
    with job.meter.phase("teacher") as phase:
        prompts = scorer.prompter.prompts(rows)
        with scorer.asking(prompts.prefix, phase) as asking:
            written = asking.write(prompts)
        answered = [{**row, "answer_ids": ids} for row, ids in zip(rows, written, strict=True)]
        targets = Teacher((scorer,), answered, objective, counted=False).precompute(phase)
    examples = with_targets(scorer.answers.examples(prompts, answered, gold=False), targets)
    return Retained(flags.retain_weight, examples, objective)
