"""Several processes: who we are among them, and their results and weights put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def leave_together() -> None:
    """Wait for all ranks and end the process group.

    A rank that just exits leaves the group's threads running, which now and then aborts the process after its work is done.
    """
    _, world = rank_and_world()
    if world > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@contextmanager
def whole_weights(weights: Iterable[torch.Tensor]) -> Iterator[None]:
    """Within, every rank holds the whole of those weights that DeepSpeed ZeRO-3 has cut up; nothing to do for others."""
    parts = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield
