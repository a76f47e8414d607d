"""Losses as pure functions of logits at the answer position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from llmft.models.wrapping import index_on, precise


def answer_cross_entropy(logits: torch.Tensor, answers: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cross-entropy over the whole vocabulary: pattern-based fine-tuning (Mosbach et al. 2023, section 3).

    Args:
        logits: (P, V) at the positions of the answers.
        answers: (P,) the right token.
        weights: (P,) the weight of each position in a weighted sum, instead of the mean.
    """
    if weights is None:
        return F.cross_entropy(precise(logits), answers)
    return (F.cross_entropy(precise(logits), answers, reduction="none") * weights).sum()  # autocast would round with @


def label_cross_entropy(logits: torch.Tensor, answers: torch.Tensor, label_ids: Sequence[int]) -> torch.Tensor:
    """Mean cross-entropy over only the label tokens, renormalised: other tokens do not count.

    Args:
        logits: (B, V) at the answer position.
        answers: (B,) token of the right label, one of `label_ids`.
        label_ids: L different tokens.
    """
    logits = precise(logits)
    labels = index_on(logits.device, tuple(label_ids))
    return (logits[:, labels].logsumexp(-1) - logits.gather(1, answers[:, None])[:, 0]).mean()


def t_few_loss(logits: torch.Tensor, answers: torch.Tensor, label_ids: Sequence[int]) -> torch.Tensor:
    """L_LM + L_UL + L_LN of T-Few, unweighted (Liu et al. 2022, arXiv:2205.05638, section 3.2), mean over the batch.

    The choices are the label words. Each is one token here, so all lengths T are 1 and, with y the right label and p over
    the whole vocabulary,
     - L_LM = -log p(y);
     - L_UL (eq. 1) = -sum over the N = L - 1 wrong labels y' of log(1 - p(y')), divided by N (the tokens of all wrong choices);
     - L_LN (eq. 2) = -log of p(y) / sum of p over all L labels, as beta, the mean log-probability of a choice's tokens, is
       the log-probability of its one token.

    log(1 - p) is computed as the log-probability of all other tokens, so it stays finite if p rounds to 1.

    Args:
        logits: (B, V) at the answer position.
        answers: (B,) token of the right label, one of `label_ids`.
        label_ids: L >= 2 different tokens.
    """
    logits = precise(logits)
    labels = index_on(logits.device, tuple(label_ids))
    its_own = F.one_hot(labels, logits.shape[1]).bool()  # (L, V)
    others = logits[:, None].masked_fill(its_own, -torch.inf).logsumexp(-1)  # (B, L) of all tokens but the label's
    log_not = others - logits.logsumexp(-1, keepdim=True)  # (B, L) log(1 - p)
    right = labels == answers[:, None]  # (B, L)
    wrong_labels = len(answers) * (len(labels) - 1)  # as many in every row, so the mean over all is the mean of means
    unlikelihood = -log_not.masked_fill(right, 0.0).sum() / wrong_labels
    return answer_cross_entropy(logits, answers) + unlikelihood + label_cross_entropy(logits, answers, label_ids)
