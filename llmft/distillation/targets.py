"""What teacher and student are compared on: the labels, the teacher's k most likely tokens, the vocabulary, or the answer's
token.

A distribution over the vocabulary is reduced to K classes: `labels` K = L, `labels_rest` K = L + 1, `topk` K = k + 1, `vocab` K
    = V, `sampled` K = 2. If there is one more class than tokens, the last is a bucket with the mass of all other tokens; it is
    summed over those tokens, never computed as 1 minus the others, and so keeps its digits when it is tiny.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from llmft.errors import InputError
from llmft.evaluation.answers import Question
from llmft.models.wrapping import index_on, precise

if TYPE_CHECKING:
    from llmft.arguments.objective import Objective
    from llmft.evaluation.answers import Answers


class Targets(NamedTuple):
    """The teacher's answers to queries as they are stored, valid for any divergence and temperature.

    Attributes:
        logprobs: (P, K) log-probabilities on the support, at each position of each query's answer.
        tokens: (P, k) int32 token ids that the first k classes of `topk` stand for, largest first; None for other supports.
        query_of: (P,) place of the query that a position belongs to, on the CPU, in order; None for one position per query.
    """

    logprobs: torch.Tensor
    tokens: torch.Tensor | None
    query_of: torch.Tensor | None = None

    def by_query(self) -> list[Targets]:
        """The targets of each query separately."""
        counts = [1] * len(self.logprobs) if self.query_of is None else self.query_of.bincount().tolist()
        tokens = [None] * len(counts) if self.tokens is None else self.tokens.split(counts)
        return [Targets(*one) for one in zip(self.logprobs.split(counts), tokens, strict=True)]


@dataclass(frozen=True)
class SupportQuestion(Question):
    """The question for a model's distribution on a support, at every position.

    Attributes:
        support: one of `objective.SUPPORTS`.
        topk: k for `topk`, else None.
        asked_for: the answers that predicted positions belong to; `labels` and `labels_rest` are about its `ids`.
    """

    support: str
    topk: int | None
    asked_for: Answers

    @classmethod
    def of(cls, objective: Objective, asked_for: Answers, support: str | None = None) -> SupportQuestion:
        """The question that the objective asks a teacher, or the one about another support."""
        support = support or objective.support
        return cls(support, objective.topk if support == "topk" else None, asked_for)

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the question, JSON-able."""
        return {**self.asked_for.key, "support": self.support, "topk": self.topk}

    def keep(self, logits: torch.Tensor, _positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """The fields of `Targets` for logits (p, V)."""
        targets = support_targets(logits, self.support, label_ids=self.asked_for.ids, topk=self.topk or 0)
        return {name: tensor for name, tensor in targets._asdict().items() if tensor is not None}


@dataclass(frozen=True)
class TokenQuestion(Question):
    """The question for a model's distribution over given tokens at each position, its own most likely ones in addition, and the
    rest.

    Attributes:
        tokens: (P, k) all different at each position.
        more: m, how many of the model's most likely other tokens are appended to them.
    """

    tokens: torch.Tensor
    more: int = 0

    def keep(self, logits: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """`logprobs` (p, k + m + 1) and `tokens` (p, k + m)."""
        tokens = self.tokens.to(logits.device)[positions].long()
        if self.more:
            others = logits.scatter(-1, tokens, -torch.inf)
            tokens = torch.cat([tokens, others.topk(self.more).indices], dim=-1)
        return {"logprobs": tempered(support_scores(logits, "topk", tokens), 1.0), "tokens": tokens}


def sampled_targets(answers: Sequence[Sequence[int]]) -> Targets:
    """The answers' own tokens as distributions: all mass is on them, so that the forward divergence is their cross-entropy.

    Args:
        answers: (N) tokens of each.
    """
    tokens = torch.tensor([token for answer in answers for token in answer])[:, None]
    query_of = torch.arange(len(answers)).repeat_interleave(torch.tensor([*map(len, answers)]))
    return Targets(torch.tensor([0.0, -torch.inf]).expand(len(tokens), 2), tokens, query_of)


def support_targets(logits: torch.Tensor, support: str, *, label_ids: Sequence[int], topk: int) -> Targets:
    """The teacher's distribution on the support.

    For several contexts pass the result of `mean_logprobs` on their log-probabilities over the vocabulary, so that the k most
    likely are those of the mean.

    Args:
        logits: (P, V) the teacher's logits (or log-probabilities), of any float type; computed in float32 or better.
        support: one of `objective.SUPPORTS`.
        label_ids: the teacher's L label tokens, for `labels` and `labels_rest`.
        topk: k, for `topk`; 50 in Askell et al. 2021 (arXiv:2112.00861), appendix B.5.

    Raises:
        InputError: k is larger than the vocabulary.
    """
    if support == "topk":
        if topk > logits.shape[-1]:
            raise InputError(f"--topk {topk}: the vocabulary has {logits.shape[-1]} tokens; use at most that many")
        tokens = logits.topk(topk).indices.int()  # int32 halves their size in memory and on disk
        return Targets(tempered(support_scores(logits, support, tokens), 1.0), tokens)
    return Targets(tempered(support_scores(logits, support, label_ids), 1.0), None)


def support_scores(logits: torch.Tensor, support: str, tokens: torch.Tensor | Sequence[int] | None) -> torch.Tensor:
    """Log-scores (B, K) of the support's classes, up to a constant for each row; `tempered` normalises them.

    Args:
        logits: (B, V).
        support: one of `objective.SUPPORTS`.
        tokens: the tokens of the classes: (L,) the labels', or (B, k) the target's, on the logits' device; not used for `vocab`.
    """
    scores = precise(logits)
    if support == "vocab":
        return scores
    if not isinstance(tokens, torch.Tensor):
        tokens = index_on(logits.device, tuple(tokens))
    chosen = tokens.long().expand(len(scores), -1)  # (B, K or K - 1)
    classes = scores.gather(-1, chosen)
    if support == "labels":
        return classes
    least = torch.finfo(scores.dtype).min  # not -inf: logsumexp of only -inf would have a gradient of NaN
    rest = scores.scatter(-1, chosen, least).logsumexp(-1, keepdim=True)  # (B, 1)
    rest = rest.masked_fill(rest < least / 2, -torch.inf)  # where there are no other tokens
    return torch.cat([classes, rest], dim=-1)


def tempered(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (B, K) proportional to p^(1/T), from log-scores or log-probabilities (B, K) on a support.

    The temperature acts on the support's classes, where a bucket is one class. For `labels` and `vocab` this is the same as
    dividing the logits over the vocabulary by T. With buckets it is not, but it needs nothing that a stored target lacks, so
    one target serves every temperature.
    """
    return (precise(scores) / temperature).log_softmax(-1)


def mean_logprobs(logprobs: torch.Tensor) -> torch.Tensor:
    """Log of the mean probability (N, K) of m teachers' (one for each context) log-probabilities (m, N, K).

    On `labels`, `labels_rest` and `vocab` the mean may be taken on the support (on `labels` every context then has the same
    weight, however much mass it gives to the labels). The k most likely tokens differ between contexts: for `topk` take the
    mean over the vocabulary, K = V, for as many queries at a time as memory allows, and reduce that to the support.
    """
    return precise(logprobs).logsumexp(0) - math.log(len(logprobs))
