"""Several processes: who we are among them, and their results and weights put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) on a plain start."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def all_gather(value: Any) -> list[Any]:
    """Every rank's `value`, in rank order, on every rank. The value must be picklable."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def whole_weights(model: torch.nn.Module) -> Iterator[None]:
    """Within, every rank holds the whole of a model that DeepSpeed ZeRO-3 has cut up; nothing to do for other models."""
    parts = [p for p in model.parameters() if hasattr(p, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield
