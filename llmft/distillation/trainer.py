"""Context distillation: the student reads the query alone and learns to answer as the teacher did behind the context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from llmft.arguments.objective import Objective
from llmft.cost.phases import Phase
from llmft.distillation.divergences import distillation_loss
from llmft.distillation.targets import Targets
from llmft.distillation.teacher import Teacher
from llmft.evaluation.answers import Answers
from llmft.training.ft_trainer import WEIGHTS, FtTrainer

UNBOUNDED = {"forward": ("student", "teacher", "reverse"), "reverse": ("teacher", "student", "forward")}
"""Divergences that may be infinite: which side then gives no probability, to what which side gives some; another to use."""


def with_targets(examples: Sequence[dict[str, Any]], targets: Targets | None) -> list[dict[str, Any]]:
    """The examples with what they are to be answered like: `teacher_logprobs` (A, K) at the A positions that each asks, and for
    `topk` `teacher_tokens` (A, k); or, for an online teacher, the place `query` of their query.

    Args:
        targets: precomputed, in the order of the examples; None for those of an online teacher.
    """
    if targets is None:
        return [{**example, "query": i} for i, example in enumerate(examples)]
    parts = []
    for target in targets.by_query():
        parts.append({"teacher_logprobs": target.logprobs})
        if target.tokens is not None:
            parts[-1]["teacher_tokens"] = target.tokens
    return [{**example, **part} for example, part in zip(examples, parts, strict=True)]


class ContextDistillationTrainer(FtTrainer):
    """Minimises T^2 * D(teacher, student) on a support, plus what is asked for of a cross-entropy with gold answers
    (Askell et al. 2021, eq. 2.1; Snell et al. 2022, eq. 1).

    A training example holds what `with_targets` gives it; `answer`, the gold token (or tokens), is read by the cross-entropy.

    Args:
        choices: divergence, support, temperature, weight of the cross-entropy.
        answers: the student's, and how they are compared with the teacher's.
        teacher: the teacher that reads along, or None for precomputed answers.
    """

    def __init__(
        self,
        *args: Any,
        choices: Objective,
        answers: Answers,
        teacher: Teacher | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.choices, self.answers, self.teacher = choices, answers, teacher

    def answer_logits(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """What of the student's logits is compared with the teacher's answers."""
        return self.answers.compared(super().answer_logits(model, inputs))

    def count_work(self, phase: Phase) -> None:
        """Count also what an online teacher has read."""
        super().count_work(phase)
        if self.teacher is not None:
            self.teacher.count_work(phase)

    def add_targets(self, inputs: dict[str, Any]) -> None:
        """Add an online teacher's answers."""
        if self.teacher is not None:
            targets = self.teacher.targets(inputs["query"])
            inputs["teacher_logprobs"] = targets.logprobs
            if targets.tokens is not None:
                inputs["teacher_tokens"] = targets.tokens

    def answer_loss(self, logits: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Divergence from the teacher's answers, from what `answer_logits` gives."""
        tokens, gold = inputs.get("teacher_tokens", self.answers.ids), inputs.get("answer")
        return distillation_loss(self.choices, logits, inputs["teacher_logprobs"], tokens, gold, inputs.get(WEIGHTS))

    def cause(self, loss: float, positions: Sequence[int]) -> str | None:
        """A divergence is infinite where one side has no probability at all and the other has some."""
        divergence, support = self.choices.divergence, self.choices.support
        if loss != math.inf or divergence not in UNBOUNDED or self.choices.ce_weight:
            return None
        without, other_side, other = UNBOUNDED[divergence]
        if without == "teacher" and self.teacher is None:  # else its answers are gone
            targets = [self.train_dataset[position]["teacher_logprobs"] for position in positions]
            if not any((target == -torch.inf).any() for target in targets):
                return None
        return (
            f"--divergence {divergence}: the {without} gives no probability at all to what the {other_side} gives some, "
            f"where this divergence is infinite; use --divergence {other} or jsd, or a --support other than {support}"
        )
