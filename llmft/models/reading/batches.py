"""Batches of prompts: how many go through a model together, padded on the left, and which logits are read."""

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
"""Default number of tokens per batch, by kind of device: enough for matrix products to run at their full rate."""
WRITTEN = {"cpu": 8192}
"""The same for writing answers. One token of each goes through the model at a time, so it takes many to get close to that rate:
on a CPU 18 reach a third of it, 64 two thirds."""
LARGE_MEMORY = 16384
"""The same on accelerators; a single process halves a batch that does not fit in memory."""
MASKED = 4096
"""The limit if a mask over all tokens is needed: with more, most of the work would be on hidden entries."""


@dataclass(frozen=True)
class BatchSize:
    """Limits of one batch.

    Attributes:
        queries: maximum number of queries.
        tokens: maximum number of tokens, including padding, but always at least one query; None for the default of the device,
            where a single process halves a batch that does not fit in memory.
    """

    queries: int
    tokens: int | None = None

    @classmethod
    def of(cls, run: RunArguments) -> BatchSize:
        """The limits that a run's flags set for evaluation and the teacher."""
        return cls(run.per_device_eval_batch_size, run.max_batch_tokens)

    def tokens_on(self, device_type: str, *, masked: bool = False, written: bool = False) -> int:
        """The limit on tokens on a device of this kind; for batches that are `written`, on tokens whose keys are kept."""
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
            masked: whether they are side by side under a mask.
            written: whether answers are written after them.
            ranks: how many take turns with the batches: their numbers of batches and of queries of each length are balanced.
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
        """Each batch, or with `halve` the halves of one that does not fit in memory, and its result.

        Raises:
            InputError: a batch, or even a single query, does not fit in memory.
        """
        parts, waiting = [], batches
        while waiting:
            batch, *waiting = waiting
            try:
                parts.append((batch, do(batch)))
            except torch.OutOfMemoryError as error:
                if not halve or len(batch) == 1:
                    raise InputError(
                        f"--max_batch_tokens {self.tokens_on(device.type)}: a batch of {len(batch)} queries does not fit in the "
                        f"memory of {device}; lower it, or use a smaller model"
                    ) from error
                # the others would not fit either
                waiting = [half for one in (batch, *waiting) for half in (one[: len(one) // 2], one[len(one) // 2 :]) if half]
        return parts


def left_pad(prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Pad on the left, so that every answer position is the last one.

    Positions are explicit: a prompt gets the same ones whatever else is in the batch, even if the pad token occurs in prompts.
        The padding's id is 0 and never attended to.

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each (B, T) int64.
    """
    width = max(map(len, prompts))
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def answer_logits(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Logits (P, V) at the positions that are read, without creating a (B, T, V) tensor.

    Args:
        model: a causal language model, possibly wrapped (PEFT, DDP, DeepSpeed).
        batch: what `packing.packed_batch`, `continuations.padded_batch`, or, for the last position of each of B = P
            prompts, `left_pad` returns, on the model's device; other entries are ignored.
    """
    return at_positions(batch, all_logits(model, batch))


def all_logits(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The model's logits for a batch (as for `answer_logits`), possibly at more positions than are read."""
    names = ("input_ids", "position_ids", "attention_mask", "logits_to_keep")
    if "logits_to_keep" in batch:  # packed in one row
        return model(**{name: batch[name] for name in names}, use_cache=False).logits
    accepted = forward_parameters(model)
    arguments = {name: batch[name] for name in names[:3] if name in accepted}
    if {"logits_to_keep", "kwargs"} & accepted:  # else it is a model with code of its own, which computes them all
        arguments["logits_to_keep"] = batch.get("width", 1)
    return model(**arguments, use_cache=False).logits


def at_positions(batch: dict[str, Any], values: torch.Tensor) -> torch.Tensor:
    """(P, X) at the positions that are read, from the model's logits or hidden states, (1, P, X) or (B, T, X)."""
    if "logits_to_keep" in batch:
        return values[0]
    width = batch.get("width", 1)
    return values[:, -1] if width == 1 else values[:, -width:].flatten(0, 1)[batch["places"]]
