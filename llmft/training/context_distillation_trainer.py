"""Context distillation: the student reads the query alone and learns to answer as the teacher did behind the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmft.training.ft_trainer import FtTrainer
from llmft.training.losses import label_kl


class ContextDistillationTrainer(FtTrainer):
    """Minimises KL(teacher || student) over the labels (Askell et al. 2021, eq. 2.1; Snell et al. 2022, eq. 1).

    A training example holds `teacher_logprobs`, (L,) the precomputed answer of the teacher; no labels are needed.

    Args:
        label_ids: L tokens that stand for the labels in the student's prompts.
        temperature: T of the loss.
    """

    def __init__(self, *args: Any, label_ids: Sequence[int], temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_ids = list(label_ids)
        self.temperature = temperature

    def answer_loss(self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Divergence from the teacher's answers, from logits (B, V)."""
        return label_kl(inputs["teacher_logprobs"], logits[:, self.label_ids], self.temperature)
