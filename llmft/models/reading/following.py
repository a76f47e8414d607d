"""A model that reads along what another writes: the next token's logits, behind prompts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from llmft.models.reading.batches import left_pad
from llmft.models.reading.decoding import attends_beside
from llmft.models.reading.packing import LostKeysError
from llmft.models.wrapping import on_device

if TYPE_CHECKING:
    from llmft.models.reading.reader import PrefixReader
    from llmft.prompts.tokens import TokenizedPrompts


class Follower:
    """Reads B prompts behind an encoded prefix, then one token of each at a time. The prefix's keys and values are held once.

    Args:
        reader: has encoded the prefix; counts what is read.
        prompts: they begin with the prefix.
        rows: indices of the B prompts.
    """

    def __init__(self, reader: PrefixReader, prompts: TokenizedPrompts, rows: Sequence[int]) -> None:
        self.reader, self.suffixes = reader, [prompts.suffixes[row] for row in rows]
        self._begin()

    def _begin(self) -> None:
        self.beside = self.reader.beside
        self.inputs = self.reader.inputs_behind(on_device(left_pad(self.suffixes), self.reader.device))

    def next_logits(self, tokens: torch.Tensor | None) -> torch.Tensor:
        """Logits (B, V) of the token that follows; to be called within `reading` and without gradients.

        Args:
            tokens: (B,) what was written last; None at the first call.
        """
        if tokens is None:
            return self._first_logits()
        mask = self.inputs["attention_mask"]
        self.inputs |= {
            "input_ids": tokens[:, None],
            "attention_mask": torch.cat([mask, mask.new_ones(len(tokens), 1)], dim=1),
            "position_ids": self.inputs["position_ids"][:, -1:] + 1,
        }
        self.reader.tokens += len(tokens)
        return self._logits()

    def _first_logits(self) -> torch.Tensor:
        try:
            logits = self._logits()
        except LostKeysError:
            self.reader.puts_in_front()
            self._begin()
            return self._first_logits()
        real = sum(map(len, self.suffixes))
        self.reader.tokens += real
        self.reader.padding_tokens += self.inputs["input_ids"].numel() - real
        return logits

    def _logits(self) -> torch.Tensor:
        with attends_beside(self.reader.bare) if self.beside else nullcontext():
            return self.reader.bare(**self.inputs, use_cache=True, logits_to_keep=1).logits[:, -1]
