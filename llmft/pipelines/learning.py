"""The ways in which a student learns: from distributions computed before training, from a teacher that reads along, along its own
answers (on-policy), or, as baselines, from hard or gold answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from llmft.arguments.distillation import DistillationArguments
from llmft.pipelines.distillation_checks import needs_copy
from llmft.pipelines.job import Job
from llmft.tasks.schema import Row

if TYPE_CHECKING:
    import torch

    from llmft.distillation.targets import Targets
    from llmft.distillation.teacher import Teacher
    from llmft.distillation.trainer import Retained
    from llmft.evaluation.scorer import MeanScorer, Scorer
    from llmft.evaluation.scores import Scores
    from llmft.pipelines.training import Trained


def teacher_of(
    scorer: MeanScorer,
    queries: Sequence[Row],
    flags: DistillationArguments,
    frozen: Callable[[], AbstractContextManager[torch.nn.Module]] | None = None,
    *,
    counted: bool = True,
) -> Teacher:
    """The teacher of these queries: with the mean over all contexts, with context i mod m for query i (`cycle`), or with each
    query's own document."""
    import numpy as np

    from llmft.distillation.teacher import Teacher

    cycles = flags.context_schedule == "cycle"
    context_of = np.arange(len(queries)) % len(scorer.scorers) if cycles else scorer.context_of(queries)
    return Teacher(
        scorer.scorers,
        queries,
        flags.objective,
        context_of=context_of,
        counted=counted,
        frozen=frozen,
        skip_first=flags.skip_first,
    )


def learn(
    job: Job,
    student: Scorer,
    queries: Sequence[Row],
    teacher: MeanScorer,
    targets: Targets | None,
    reference: dict[str, Scores],
    keeps: Retained | None = None,
) -> Trained:
    """Train the student on the teacher's answers to the queries, or on the gold answers.

    Args:
        teacher: reads along if the flags ask for that.
        targets: the precomputed answers; None if the teacher reads along or its distributions are not learnt.
        reference: the teacher's scores of all evaluation sets, to log the divergence from.
        keeps: what the student is to keep; None for nothing.
    """
    from llmft.distillation.trainer import ContextDistillationTrainer, with_targets
    from llmft.pipelines.on_policy import learn_on_policy
    from llmft.pipelines.training import train
    from llmft.training.ft_trainer import FtTrainer

    flags = job.config.distillation
    online = online_teacher(job, student, queries, teacher) if flags.reads_along else None
    if flags.on_policy:
        return learn_on_policy(job, student, online, reference, keeps)
    examples = examples_of(flags, student, queries, targets)
    if flags.targets != "soft":
        return train(job, FtTrainer, student, examples, reference=reference)
    learning = {"choices": flags.objective, "answers": student.answers, "teacher": online, "retained": keeps}
    return train(job, ContextDistillationTrainer, student, with_targets(examples, targets), reference=reference, **learning)


def online_teacher(job: Job, student: Scorer, queries: Sequence[Row], teacher: MeanScorer) -> Teacher:
    """The teacher that reads along: another model, a copy of the student's start, or the student without its adapter."""
    from llmft.models.parts.adapt import without_adapter

    flags = job.config.distillation
    keeps_start = flags.teacher_model_name_or_path is None and not needs_copy(job)
    frozen = partial(without_adapter, student.model) if keeps_start else partial(nullcontext, teacher.scorers[0].model)
    return teacher_of(teacher, queries, flags, frozen)


def examples_of(
    flags: DistillationArguments, student: Scorer, queries: Sequence[Row], targets: Targets | None
) -> list[dict[str, Any]]:
    """The queries as training examples: with their own answers, or of labels with hard targets the teacher's."""
    from llmft.distillation.trainer import skipping

    answers, rows = student.answers, queries
    if flags.targets == "hard" and not answers.in_words:  # a teacher's words are the queries' answers already
        rows = answers.answered(queries, targets.logprobs)
    gold = flags.targets != "soft" or flags.ce_weight > 0
    examples = answers.examples(student.prompter.prompts(queries), rows, gold=gold)
    return skipping(examples, flags.skip_first) if flags.skip_first else examples
