"""Distillation along answers that the student writes while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.runs.ranks import all_gather

if TYPE_CHECKING:
    import torch

    from llmft.distillation.teacher import Teacher
    from llmft.distillation.trainer import Retained
    from llmft.evaluation.scorer import Scorer
    from llmft.evaluation.scores import Scores
    from llmft.pipelines.job import Job
    from llmft.pipelines.training import Trained


def check_follows(job: Job, teacher: torch.nn.Module) -> None:
    """Check that the teacher can read along token by token, if it may take over.

    Raises:
        InputError: it cannot.
    """
    from llmft.models.reading.kv_cache import can_share

    if job.config.distillation.answers == "mixed" and not can_share(teacher):
        raise InputError(
            f"--answers mixed: {type(teacher).__name__} cannot continue after an encoded context, as the teacher has to at each "
            "token; use --answers student"
        )


def learn_on_policy(
    job: Job, student: Scorer, teacher: Teacher, reference: Mapping[str, Scores], keeps: Retained | None
) -> Trained:
    """Train the student on the teacher's distributions along the student's own answers.

    Args:
        teacher: reads along, and has the queries.
        reference: the teacher's scores of all evaluation sets, for logging the divergence from it.
        keeps: the behaviour that the student should keep; None for nothing.
    """
    from llmft.distillation.rollouts import Rollouts, Tally
    from llmft.distillation.trainer import OnPolicyTrainer
    from llmft.pipelines.training import train

    flags = job.config.distillation
    rollouts = Rollouts(
        student,
        teacher,
        replace(student.answers.generation, temperature=flags.rollout_temperature, seed=job.config.run.seed),
        topk=flags.topk,
        threshold=flags.mixed_threshold if flags.answers == "mixed" else None,
        meter=job.meter,
    )
    prompts = rollouts.prompts
    examples = [{"input_ids": prompts.whole(i)} for i in range(len(prompts.suffixes))]
    learning = {"choices": flags.objective, "answers": student.answers, "retained": keeps}
    learning |= {"rollouts": rollouts, "every": flags.rollout_every}
    trained = train(job, OnPolicyTrainer, student, examples, reference=reference, **learning)
    tally = sum(all_gather(rollouts.tally), Tally())
    return replace(trained, metrics=trained.metrics | {"rollouts": tally.as_dict()})
