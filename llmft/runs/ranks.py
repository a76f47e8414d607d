"""What the ranks of one launch do together: tell each other results, notice that one has ended, and leave.

torch is imported where it is used: commands that need none import this module too.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from llmft.runs.launch import this_process

_left_group = False
"""Whether this process has been in a process group, and left it."""


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) on a plain start. If there are several and no group of them yet, torch
    raises an error at whatever they would do together: no rank goes on as if it were alone."""
    process = this_process()
    return process.rank, process.world_size


def all_gather(value: Any) -> list[Any]:
    """Every rank's `value`, in rank order, on every rank. The value must be picklable."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world
    torch.distributed.all_gather_object(values, value)
    return values


def from_rank_0(value: Any) -> Any:
    """Rank 0's `value` on every rank. It must be picklable."""
    if rank_and_world()[1] == 1:
        return value
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def lost_peer(error: RuntimeError) -> bool:
    """Whether ranks could not do something together because one of them has ended."""
    if rank_and_world()[1] == 1:
        return False
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def in_group() -> bool:
    """Whether this process is in a process group, if only alone (DeepSpeed makes one for a single process, too)."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def leave_together() -> None:
    """Wait for all ranks and end the process group, if there (still) is one."""
    global _left_group
    if in_group():
        import torch

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        _left_group = True


def end_together(code: int = 0) -> None:
    """End this process, if it is or was in a process group; else return.

    It ends without the interpreter's teardown: whatever holds on to the group, as DeepSpeed does, keeps its threads alive, and
    one of them that frees a tensor during teardown aborts the process after its work is done.

    Args:
        code: its exit status. Only with 0 are the other ranks still there: it leaves the group together with them.
    """
    if not (in_group() or _left_group):
        return
    if code == 0:
        leave_together()
        atexit._run_exitfuncs()  # trackers say there that a run has ended
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
