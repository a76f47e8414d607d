"""Auxiliary targets for pretraining: each teaches one layer what the next one needs. The heads are thrown away.

Learning in context emerges suddenly, after a long plateau (Reddy 2023, arXiv:2312.03002), because nothing rewards its parts
alone. In an artificial world every part has a known right value, so the parts are taught one by one, which takes only minutes.
The heads only read hidden states; the model still has to find the answer from its context.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from llmft.worlds.nli.episodes import LATENT_TASKS, Batch
from llmft.worlds.nli.grammar import RULES
from llmft.worlds.nli.tokenizer import BLANK_LINE, BOS, ID, PAD
from llmft.worlds.nli.world import LABEL_WORDS

MAX_OFFSET = 20  # offsets inside one demonstration are distinguished up to here


@dataclass(frozen=True)
class TargetWeights:
    """The weight of each group of targets relative to the answers themselves."""

    copying: float = 1.0  # layers 2 and 3: where am I in this demonstration, where did my word occur before
    rules: float = 1.0  # layer 5, at the question mark: which rules hold of this pair
    inference: float = 0.5  # layer 6, at a label: which rules agree with it; layer 7, at the question mark: which task is it


class Scaffold(nn.Module):
    """Linear heads on the hidden states of one decoder of width `width` and at least 7 layers."""

    def __init__(self, width: int):
        super().__init__()
        self.offset = nn.Linear(width, MAX_OFFSET)
        self.previous = nn.Linear(width, MAX_OFFSET)
        self.rules = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(RULES)))
        self.agreement = nn.Linear(width, len(RULES))
        self.task = nn.Linear(width, len(LATENT_TASKS))

    def forward(self, hidden: tuple[torch.Tensor, ...], batch: Batch, weights: TargetWeights) -> torch.Tensor:
        """The weighted sum of all auxiliary losses; `hidden[l]`, (B, T, width), is the output of layer l, counted from 1."""
        loss = hidden[0].new_zeros(())
        query = torch.from_numpy(batch.answer) >= 0  # (B, T)
        holds = torch.from_numpy(batch.holds)  # (B, T, 5)
        if weights.copying:
            ids = torch.from_numpy(batch.ids)
            text = ids != PAD
            offset, previous = copying_targets(ids)
            absent = torch.ones(MAX_OFFSET)
            absent[0] = 0.2  # most words are new to their demonstration; without this, "no" would be a good answer
            copying = F.cross_entropy(self.offset(hidden[2][text]), offset[text])
            copying = copying + 2 * F.cross_entropy(self.previous(hidden[3][text]), previous[text], weight=absent)
            loss = loss + weights.copying * copying
        if weights.rules:
            rules = F.binary_cross_entropy_with_logits(self.rules(hidden[5][query]), holds[query].float())
            loss = loss + weights.rules * len(RULES) * rules
        if weights.inference:
            inferred = query & torch.from_numpy(batch.plain)
            inferred[:, -1] = False  # its label is cut off
            label = inferred.roll(1, dims=1)  # a label directly follows its question mark
            yes = torch.from_numpy(batch.answer)[inferred] == ID[LABEL_WORDS[0]]
            agrees = (holds[inferred] == yes[:, None]).float()
            agreement = F.binary_cross_entropy_with_logits(self.agreement(hidden[6][label]), agrees)
            task = torch.from_numpy(batch.task)[:, None].expand_as(query)[query]
            loss = loss + weights.inference * len(RULES) * agreement
            loss = loss + weights.inference * F.cross_entropy(self.task(hidden[7][query]), task)
        return loss


def copying_targets(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of the (B, T) tokens: its offset from the start of its demonstration, and 1 + the offset of the last
    earlier occurrence of the same token in that demonstration (0: none). Both are capped at MAX_OFFSET - 1."""
    length = ids.shape[1]
    opens = (ids == ID[BLANK_LINE]) | (ids == BOS)
    position = torch.arange(length).expand_as(ids)
    start = torch.where(opens, position, 0).cummax(dim=1).values
    offset = (position - start).clamp(max=MAX_OFFSET - 1)
    same = (ids[:, :, None] == ids[:, None, :]) & (start[:, :, None] == start[:, None, :])  # (B, T, T)
    earlier = same & torch.ones(length, length, dtype=torch.bool).tril(-1)
    previous = (earlier * (offset[:, None, :] + 1)).amax(dim=2).clamp(max=MAX_OFFSET - 1)
    return offset, previous
