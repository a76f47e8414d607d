"""How many queries go through a model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_TOKENS = {"cpu": 2048}
"""Tokens a batch where none are asked for, by kind of device: enough for matrix products to run at their full rate."""
LARGE_MEMORY = 16384
"""The same on accelerators; a single process halves a batch that memory does not hold."""
MASKED = 4096
"""At most so many where a mask holds each token against each: with more, most of the work is on what it hides."""


@dataclass(frozen=True)
class BatchSize:
    """Limits of one batch.

    Attributes:
        queries: at most so many queries.
        tokens: at most so many tokens, padding included, but always one query; None for what suits the device, where a
            single process halves a batch that does not fit into memory.
    """

    queries: int
    tokens: int | None = None

    def tokens_on(self, device_type: str, *, masked: bool = False) -> int:
        """The limit on tokens on a device of this kind."""
        suits = DEFAULT_TOKENS.get(device_type, LARGE_MEMORY)
        return self.tokens or (min(suits, MASKED) if masked else suits)

    def batches(self, lengths: Sequence[int], device_type: str, *, padded: bool, masked: bool = False) -> list[list[int]]:
        """Indices of queries of these lengths in tokens, shortest first, cut into batches.

        Args:
            padded: whether all texts of a batch count with the length of its longest.
            masked: whether they lie side by side behind a mask.
        """
        limit, batches, tokens = self.tokens_on(device_type, masked=masked), [], 0
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            grown = (len(batches[-1]) + 1) * lengths[i] if batches and padded else tokens + lengths[i]
            if not batches or grown > limit or len(batches[-1]) == self.queries:
                batches.append([])
                grown = lengths[i]
            batches[-1].append(i)
            tokens = grown
        return batches
