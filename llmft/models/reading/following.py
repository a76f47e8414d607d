"""A model that reads along with what another writes: the next token's logits, after its own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from llmft.models.reading.attention import LostKeysError
from llmft.models.reading.decoding import attends_beside

if TYPE_CHECKING:
    from llmft.models.reading.reader import PrefixReader
    from llmft.prompts.tokens import TokenizedPrompts


class Follower:
    """Reads B prompts after an encoded prefix, then one token of each at a time. The prefix's keys and values are stored once.

    Args:
        reader: has encoded the prefix; counts what is read.
        prompts: they begin with the prefix.
        rows: indices of the B prompts.
    """

    def __init__(self, reader: PrefixReader, prompts: TokenizedPrompts, rows: Sequence[int]) -> None:
        self.reader, self.prompts, self.rows, self.steps = reader, prompts, rows, 0
        self._begin()

    def _begin(self) -> None:
        self.beside = self.reader.beside
        self.inputs, self.real = self.reader.begin(self.prompts, self.rows)

    def next_logits(self, tokens: torch.Tensor | None) -> torch.Tensor:
        """Logits (B, V) of the next token; must be called within `reading` and without gradients.

        Args:
            tokens: (B,) the tokens written last; None in the first call.
        """
        if tokens is None:
            return self._first_logits()
        mask = self.inputs["attention_mask"]
        self.inputs |= {
            "input_ids": tokens[:, None],
            "attention_mask": torch.cat([mask, mask.new_ones(len(tokens), 1)], dim=1),
            "position_ids": self.inputs["position_ids"][:, -1:] + 1,
        }
        self.steps += 1
        return self._logits()

    def count(self, lengths: Sequence[int]) -> None:
        """Count what was read of the answers, which have these lengths; tokens after an answer's end are padding."""
        read = sum(max(length - 1, 0) for length in lengths)
        self.reader.tokens += read
        self.reader.padding_tokens += self.steps * len(lengths) - read

    def _first_logits(self) -> torch.Tensor:
        try:
            logits = self._logits()
        except LostKeysError:
            self.reader.puts_in_front()
            self._begin()
            return self._first_logits()
        self.reader.tokens += self.real
        self.reader.padding_tokens += self.inputs["input_ids"].numel() - self.real
        return logits

    def _logits(self) -> torch.Tensor:
        with attends_beside(self.reader.bare) if self.beside else nullcontext():
            output = self.reader.bare(**self.inputs, use_cache=True, logits_to_keep=1)
        self.inputs["past_key_values"] = output.past_key_values  # the reader's, or the model's own if it reads whole prompts
        return output.logits[:, -1]
