"""Auxiliary targets for pretraining: each teaches one layer what the next one needs. The heads are thrown away.

To answer from the document a model must gather at each value whose it is, gather at the question what is asked for, and let
the one find the other. Each part alone earns nothing, hence the long plateau before such a circuit appears (Reddy 2023,
arXiv:2312.03002). Here each part has a known right value and is taught by itself. The heads only read hidden states; the
answer still has to be found by the model.
"""

import torch
from torch import nn
from torch.nn import functional as F

from llmft.worlds.notes.episodes import IGNORED, LONGEST_VALUE, NUM_KINDS, Batch

VALUE_LAYER, QUESTION_LAYER = 2, 3


class Scaffold(nn.Module):
    """Linear heads on the hidden states of a decoder of width `width` and at least 3 layers."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.sizes = (vocabulary, NUM_KINDS, LONGEST_VALUE + 1)  # subject, kind, index
        self.value = nn.Linear(width, sum(self.sizes))
        self.question = nn.Linear(width, sum(self.sizes))

    def forward(self, hidden: tuple[torch.Tensor, ...], batch: Batch) -> torch.Tensor:
        """The sum of all auxiliary losses; `hidden[l]`, (B, T, width), is what layer l puts out, from 1."""
        targets = [torch.from_numpy(column) for column in (batch.subject, batch.kind, batch.index)]
        marked, document = targets[0] != IGNORED, torch.from_numpy(batch.segment) == 0
        loss = hidden[0].new_zeros(())
        for head, layer, where in (
            (self.value, VALUE_LAYER, marked & document),
            (self.question, QUESTION_LAYER, marked & ~document),
        ):
            logits = head(hidden[layer][where]).split(self.sizes, dim=1)
            loss = loss + sum(F.cross_entropy(scores, target[where]) for scores, target in zip(logits, targets, strict=True))
        return loss
