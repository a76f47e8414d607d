"""Context distillation: the student reads the query alone and learns to answer as the teacher did behind the context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from llmft.arguments.objective import Objective
from llmft.cost.phases import Phase
from llmft.distillation.divergences import distillation_loss
from llmft.distillation.teacher import Teacher
from llmft.models.reading.continuations import LabelSequences
from llmft.training.ft_trainer import WEIGHTS, FtTrainer


class ContextDistillationTrainer(FtTrainer):
    """Minimises T^2 * D(teacher, student) on a support, plus what is asked for of a cross-entropy with gold answers
    (Askell et al. 2021, eq. 2.1; Snell et al. 2022, eq. 1).

    A training example holds the precomputed answer of the teacher, `teacher_logprobs` (K,) and for `topk` `teacher_tokens`
    (k,), of a text at each of the A positions that it asks (A, K) and (A, k); or with an online teacher the place `query` of its
    query. `answer`, the gold token (or tokens), is only read by the cross-entropy.

    Args:
        choices: divergence, support, temperature, weight of the cross-entropy.
        label_sequences: L token sequences that stand for the labels in the student's prompts.
        teacher: the teacher that reads along, or None for precomputed answers.
    """

    def __init__(
        self,
        *args: Any,
        choices: Objective,
        label_sequences: Sequence[Sequence[int]],
        teacher: Teacher | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.choices = choices
        self.labels = LabelSequences.create(label_sequences)
        self.label_columns = [i if self.labels.rows > 1 else ids[0] for i, ids in enumerate(label_sequences)]  # of the logits
        self.teacher = teacher

    def answer_logits(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Logits (P, V) at the positions that are asked; of labels of several tokens their log-probabilities (B, L)."""
        logits = super().answer_logits(model, inputs)
        return self.labels.logprobs(logits) if self.labels.rows > 1 else logits

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
        tokens, answers = inputs.get("teacher_tokens", self.label_columns), inputs.get("answer")
        return distillation_loss(self.choices, logits, inputs["teacher_logprobs"], tokens, answers, inputs.get(WEIGHTS))

    def cause(self, loss: float, positions: Sequence[int]) -> str | None:
        """A divergence is infinite where one side has no probability at all and the other has some."""
        if loss != math.inf or self.choices.divergence == "jsd" or self.choices.ce_weight:
            return None
        reverse = self.choices.divergence == "reverse"
        if reverse and self.teacher is None:  # else its answers are gone
            targets = [self.train_dataset[position]["teacher_logprobs"] for position in positions]
            if not any((target == -torch.inf).any() for target in targets):
                return None
        without, some = ("teacher", "student") if reverse else ("student", "teacher")
        other = "forward" if reverse else "reverse"
        divergence, support = self.choices.divergence, self.choices.support
        return (
            f"--divergence {divergence}: the {without} gives no probability at all to what the {some} gives some, "
            f"where this divergence is infinite; use --divergence {other} or jsd, or a --support other than {support}"
        )
