"""Batches of prompts: how many go through a model together, padded on the left, and the logits that are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from llmft.errors import InputError
from llmft.models.wrapping import forward_parameters

if TYPE_CHECKING:
    from llmft.arguments.run import RunArguments

Result = TypeVar("Result")

DEFAULT_TOKENS = {"cpu": 2048}
"""Tokens a batch where no flag says, by kind of device: enough for matrix products to run at their full rate."""
WRITTEN = {"cpu": 8192}
"""The same where answers are written. They go through the model a token of each at a time, which takes many to come near that
rate: on a CPU 18 reach a third of it, 64 two thirds."""
LARGE_MEMORY = 16384
"""The same on accelerators; a single process halves a batch that memory does not hold."""
MASKED = 4096
"""The limit where a mask over all tokens is needed: with more, most of the work would be on what it hides."""


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

    @classmethod
    def of(cls, run: RunArguments) -> BatchSize:
        """The limits in evaluation and teacher pass that a run's flags set."""
        return cls(run.per_device_eval_batch_size, run.max_batch_tokens)

    def tokens_on(self, device_type: str, *, masked: bool = False, written: bool = False) -> int:
        """The limit on tokens on a device of this kind; for batches that are `written`, on those that keys are kept of."""
        suits = (WRITTEN if written else DEFAULT_TOKENS).get(device_type, LARGE_MEMORY)
        return self.tokens or (min(suits, MASKED) if masked else suits)

    def batches(
        self,
        lengths: Sequence[int],
        device_type: str,
        *,
        padded: bool,
        masked: bool = False,
        written: bool = False,
        ranks: int = 1,
    ) -> list[list[int]]:
        """Indices of queries of these lengths in tokens, shortest first, cut into batches.

        Args:
            padded: whether all texts of a batch count with the length of its longest.
            masked: whether they lie side by side behind a mask.
            written: whether answers are written behind them.
            ranks: how many take turns with the batches: each gets as many, and as many queries of each length, as can be.
        """
        limit = self.tokens_on(device_type, masked=masked, written=written)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        shares = [self._cut(order[rank::ranks], lengths, limit, padded=padded) for rank in range(ranks)]
        most = max(map(len, shares))
        for share in shares:
            while len(share) < most and max(map(len, share), default=0) > 1:
                batch = share.pop(max(range(len(share)), key=lambda i, share=share: len(share[i])))
                share += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return [batch for turn in zip_longest(*shares) for batch in turn if batch]

    def _cut(self, order: Sequence[int], lengths: Sequence[int], limit: int, *, padded: bool) -> list[list[int]]:
        batches, tokens = [], 0
        for i in order:
            grown = (len(batches[-1]) + 1) * lengths[i] if batches and padded else tokens + lengths[i]
            if not batches or grown > limit or len(batches[-1]) == self.queries:
                batches.append([])
                grown = lengths[i]
            batches[-1].append(i)
            tokens = grown
        return batches

    def each(
        self, batches: list[list[int]], do: Callable[[list[int]], Result], device: torch.device, *, halve: bool
    ) -> list[tuple[list[int], Result]]:
        """Each batch, or with `halve` the halves of one that memory does not hold, and what it gives.

        Raises:
            InputError: memory does not hold a batch, or not even one query.
        """
        parts, waiting = [], batches
        while waiting:
            batch, *waiting = waiting
            try:
                parts.append((batch, do(batch)))
            except torch.OutOfMemoryError as error:
                if not halve or len(batch) == 1:
                    raise InputError(
                        f"--max_batch_tokens {self.tokens_on(device.type)}: memory of {device} does not hold a batch of "
                        f"{len(batch)} queries; give less, or a smaller model"
                    ) from error
                # the others would not fit either
                waiting = [half for one in (batch, *waiting) for half in (one[: len(one) // 2], one[len(one) // 2 :]) if half]
        return parts


def left_pad(prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Pad on the left, so that every answer position is the last one.

    Positions are explicit: a prompt gets the same ones whatever stands beside it, also where the pad token is a token
    that occurs in prompts. The padding's id is 0 and never attended to.

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each (B, T) int64.
    """
    width = max(map(len, prompts))
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def answer_logits(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Logits (P, V) at the positions that are read; no (B, T, V) tensor is made.

    Args:
        model: a causal language model, possibly wrapped (PEFT, DDP, DeepSpeed).
        batch: what `packing.packed_batch`, `continuations.padded_batch`, or, for the last position of each of B = P
            prompts, `left_pad` returns, on the model's device; anything else is not read.
    """
    return at_positions(batch, all_logits(model, batch))


def all_logits(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Logits of a batch (as of `answer_logits`) as the model gives them: of no fewer positions than are read."""
    names = ("input_ids", "position_ids", "attention_mask", "logits_to_keep")
    if "logits_to_keep" in batch:  # packed in one row
        return model(**{name: batch[name] for name in names}, use_cache=False).logits
    accepted = forward_parameters(model)
    arguments = {name: batch[name] for name in names[:3] if name in accepted}
    return model(**arguments, use_cache=False, logits_to_keep=batch.get("width", 1)).logits


def at_positions(batch: dict[str, Any], values: torch.Tensor) -> torch.Tensor:
    """(P, X) at the positions that are read, from logits or hidden states as the model has them, (1, P, X) or (B, T, X)."""
    if "logits_to_keep" in batch:
        return values[0]
    width = batch.get("width", 1)
    return values[:, -1] if width == 1 else values[:, -width:].flatten(0, 1)[batch["places"]]
