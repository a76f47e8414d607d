"""Label scores of plain prompts, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmft.models.reading.batches import BatchSize
from llmft.models.reading.continuations import Continued, LabelSequences
from llmft.models.reading.reader import Keep
from llmft.models.reading.shared_prefix import Kept, open_prefix
from llmft.prompts.tokens import TokenizedPrompts


@dataclass(frozen=True)
class AnswerScores:
    """`label_logprobs` (N, L) and `best_token` (N,); the rest as in `llmft.models.reading.reader.Kept`."""

    label_logprobs: np.ndarray
    best_token: np.ndarray
    scored: list[int]
    tokens: int
    padding_tokens: int


def read_logits(model: torch.nn.Module, prompts: Continued, keep: Keep, *, size: BatchSize) -> Kept:
    """As `OpenPrefix.read`, for one set of prompts."""
    with open_prefix(model, prompts.prefix, size) as behind:
        return behind.read(prompts, keep)


def score_answers(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_ids: Sequence[int], *, queries_per_row: int
) -> AnswerScores:
    """Scores of labels of one token each."""
    return score_sequences(model, prompts, [[token] for token in label_ids], queries_per_row=queries_per_row)


def score_sequences(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_sequences: Sequence[Sequence[int]], *, queries_per_row: int
) -> AnswerScores:
    """Scores of labels of any number of tokens; exactly `queries_per_row` queries go through the model together."""
    return score_labels(model, prompts, label_sequences, BatchSize(queries_per_row, 10**9))


def score_labels(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_sequences: Sequence[Sequence[int]], size: BatchSize
) -> AnswerScores:
    """The same for batches of any size."""
    labels = LabelSequences.create(label_sequences)
    kept = read_logits(model, Continued.by_labels(prompts, labels), labels.keep, size=size)
    answers = labels.answers(kept.arrays)
    return AnswerScores(**answers, scored=kept.scored, tokens=kept.tokens, padding_tokens=kept.padding_tokens)
