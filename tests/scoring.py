"""Label scores of plain prompts, as tests ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmft.batch_size import BatchSize
from llmft.models.sequence_scores import LabelSequences
from llmft.models.shared_prefix import read_answers
from llmft.models.supports import kept_of
from llmft.prompts.tokens import TokenizedPrompts


@dataclass(frozen=True)
class AnswerScores:
    """`label_logprobs` (N, L) and `best_token` (N,); the rest as in `llmft.models.shared_prefix.Answers`."""

    label_logprobs: np.ndarray
    best_token: np.ndarray
    scored: list[int]
    tokens: int
    padding_tokens: int


def score_answers(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_ids: Sequence[int], *, queries_per_row: int
) -> AnswerScores:
    """Scores of labels of one token each."""
    return score_sequences(model, prompts, [[token] for token in label_ids], queries_per_row=queries_per_row)


def score_sequences(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_sequences: Sequence[Sequence[int]], *, queries_per_row: int
) -> AnswerScores:
    """Scores of labels of any number of tokens; exactly `queries_per_row` queries go through the model together."""
    labels = LabelSequences.create(label_sequences)
    size = BatchSize(queries_per_row, 10**9)
    found = read_answers(model, prompts, labels, kept_of("scores", labels, None), size=size)
    return AnswerScores(**found.arrays, scored=found.scored, tokens=found.tokens, padding_tokens=found.padding_tokens)
