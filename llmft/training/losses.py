"""Losses as pure functions of logits at the answer position."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def answer_cross_entropy(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the whole vocabulary: pattern-based fine-tuning (Mosbach et al. 2023, section 3).

    Args:
        logits: (B, V) at the answer position.
        answers: (B,) token of the right label.
    """
    return F.cross_entropy(_precise(logits), answers)


def label_kl(teacher_logprobs: torch.Tensor, student_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(teacher || student) over the labels alone, mean over the batch: context distillation.

    The direction is that of Askell et al. 2021 (arXiv:2112.00861), eq. 2.1: the expectation is the teacher's. T^2 keeps
    the size of the gradient as T changes (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Args:
        teacher_logprobs: (B, L) the teacher's log-probabilities over the labels.
        student_logits: (B, L) the student's logits (or log-probabilities) of the labels; normalised here.
        temperature: T > 0, divides both.
    """
    teacher = (_precise(teacher_logprobs) / temperature).log_softmax(-1)
    student = (_precise(student_logits) / temperature).log_softmax(-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()


def _precise(values: torch.Tensor) -> torch.Tensor:
    """At least float32: sums of exponentials lose too much in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
