"""Divergences between teacher and student on a support, and the loss of context distillation.

Each takes normalised log-probabilities, (P, K) and (P, K), one row per position, and returns (P,) nats. A class without mass
(-inf) adds nothing where its probability is the weight. Gradients are only with respect to the student, and correct if its
log-probabilities come from `log_softmax`: there, a term proportional to the student's probabilities q has no effect, so we add
or omit it such that equal distributions get a gradient of exactly 0 instead of rounding errors. Derivatives are first-order
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from llmft.arguments.objective import Objective
from llmft.distillation.targets import support_scores, tempered
from llmft.errors import InputError
from llmft.training.losses import answer_cross_entropy


def forward_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student): sum p (log p - log q), an expectation under the teacher (Askell et al. 2021, eq. 2.1).

    Infinite if the student gives no mass to a class to which the teacher gives some.
    """
    mass = student.exp()
    no_mass = (mass - mass.detach()).sum(-1)  # 0, with gradient q: together q - p
    return (teacher.exp() * _log_ratio(teacher, student)).sum(-1) + no_mass


def reverse_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL(student || teacher): sum q (log q - log p).

    Infinite if the teacher gives no mass to a class to which the student gives some.
    """
    return (student.exp() * _log_ratio(student, teacher).detach()).sum(-1)  # gradient q (log q - log p)


def jensen_shannon(teacher: torch.Tensor, student: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2024, arXiv:2306.13649, eq. 1):

        beta KL(teacher || m) + (1 - beta) KL(student || m),    m = beta teacher + (1 - beta) student.

    Symmetric at beta = 1/2. Between 0 and -beta ln beta - (1 - beta) ln(1 - beta), at most ln 2, even if classes are empty. It
    vanishes at both ends of beta: divided by beta it tends to forward KL as beta -> 0, divided by 1 - beta to reverse KL as
    beta -> 1.
    """
    mixture = _log_mixture(teacher, student.detach(), beta)  # its gradient would be through the mass of m, which is always 1
    from_student = (student.exp() * _log_ratio(student, mixture).detach()).sum(-1)
    return beta * (teacher.exp() * _log_ratio(teacher, mixture)).sum(-1) + (1 - beta) * from_student


BY_NAME: dict[str, Callable[[torch.Tensor, torch.Tensor, Objective], torch.Tensor]] = {
    "forward": lambda teacher, student, _: forward_kl(teacher, student),
    "reverse": lambda teacher, student, _: reverse_kl(teacher, student),
    "jsd": lambda teacher, student, objective: jensen_shannon(teacher, student, objective.jsd_beta),
}
"""Divergences by their names in `objective.DIVERGENCES`."""


def divergence_loss(
    objective: Objective, teacher_logprobs: torch.Tensor, student_scores: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """T^2 times the divergence, mean over the positions.

    T^2 keeps the size of the gradient the same as T changes (Hinton et
    al. 2015, arXiv:1503.02531, section 2).

    Args:
        objective: divergence, beta and T.
        teacher_logprobs: (P, K) as kept in `Targets`.
        student_scores: (P, K) the student's log-scores on the same support, normalised here.
        weights: (P,) the weight of each position in a weighted sum, instead of the mean.
    """
    teacher = tempered(teacher_logprobs, objective.temperature)
    student = tempered(student_scores, objective.temperature)
    divergences = BY_NAME[objective.divergence](teacher, student, objective)
    mean = divergences.mean() if weights is None else (divergences * weights).sum()  # autocast would round with @
    return objective.temperature**2 * mean


def distillation_loss(
    objective: Objective,
    logits: torch.Tensor,
    teacher_logprobs: torch.Tensor,
    tokens: torch.Tensor | Sequence[int] | None,
    answers: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """T^2 * D + ce_weight * CE, mean over the positions: the whole loss of context distillation.

    Args:
        objective: the choices.
        logits: (P, V) of the student, at the positions of the answers.
        teacher_logprobs: (P, K) of the teacher, on the support.
        tokens: for `labels` and `labels_rest` the student's L label tokens, for `topk` the target's (P, k), for `vocab` None.
        answers: (P,) gold tokens; the cross-entropy is over the vocabulary, at temperature 1, as in fine-tuning.
        weights: (P,) the weight of each position in a weighted sum, instead of the mean.

    Raises:
        InputError: a cross-entropy is requested, but there are no gold labels.
    """
    loss = divergence_loss(objective, teacher_logprobs, support_scores(logits, objective.support, tokens), weights)
    if not objective.ce_weight:
        return loss
    if answers is None:
        raise InputError(f"--ce_weight {objective.ce_weight}: the queries have no gold labels; leave it at 0")
    return loss + objective.ce_weight * answer_cross_entropy(logits, answers, weights)


def _log_ratio(weighted: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """log(weighted / other), and 0 where `weighted` has no mass."""
    return torch.where(weighted == -torch.inf, 0.0, weighted - other)


def _log_mixture(teacher: torch.Tensor, student: torch.Tensor, beta: float) -> torch.Tensor:
    """log(beta p + (1 - beta) q), exactly log p where p = q."""
    empty = (teacher == -torch.inf) & (student == -torch.inf)
    gap = torch.where(empty, 0.0, student - teacher)
    weight = torch.where(gap >= 0, gap.new_tensor(beta), gap.new_tensor(1 - beta))  # of the smaller of the two
    return torch.maximum(teacher, student) + (weight * torch.expm1(-gap.abs())).log1p()
