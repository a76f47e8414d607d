"""How SIGTERM stops a process: one line, exit status 128 + the signal's number, nothing half-written. Training saves a checkpoint
first: Slurm sends SIGTERM before it takes a node away."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from llmft.runs.ranks import all_gather, rank_and_world

if TYPE_CHECKING:
    import torch

SAME_S = 5.0
"""Seconds in which another SIGTERM is the same one: a sweep sends it to all processes, and their launcher passes its own on."""


class Ended(SystemExit):
    """A signal has stopped the process; `line` says what remains of its work."""

    def __init__(self, line: str, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.line = line


def end_at_once(*_: Any) -> NoReturn:
    """A handler of SIGTERM.

    Raises:
        Ended: always, wherever the process is; temporary files are removed.
    """
    raise Ended("stopped by SIGTERM; run the same command again to continue from what is saved")


@contextmanager
def on_sigterm(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """Context: SIGTERM calls `handler`, or has the system's default effect. Only a process's main thread can set this; in other
    threads nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Preemption:
    """SIGTERM in training: a checkpoint is saved at the end of the step, and then the process ends. Another SIGTERM later ends it
    at once, and so does one during the last step."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self._last = False
        self._any_rank: Callable[[], float] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context: SIGTERM asks for a checkpoint."""
        with on_sigterm(self._ask):
            yield

    def _ask(self, *_: Any) -> None:
        if self._last or (self.asked_at is not None and time.monotonic() - self.asked_at > SAME_S):
            end_at_once()
        self.asked_at = self.asked_at or time.monotonic()

    def asks_to_save(self, device: torch.device, *, last: bool) -> bool:
        """Whether a checkpoint is to be saved at the end of this step, and the process ended by `end_after`. All ranks call this
        at every step and get the same answer.

        Args:
            device: what the ranks compute on.
            last: whether this is the last step.

        Raises:
            Ended: SIGTERM has come during the last step.
        """
        self._last = last
        if last and self.asked_at is not None:
            end_at_once()
        return self._any_asked(device) and not last

    def _any_asked(self, device: torch.device) -> bool:
        """Whether any rank has been asked. Several ranks get the answer of the step before, so that a GPU has this step's work to
        do in the meantime."""
        if rank_and_world()[1] == 1:
            return self.asked_at is not None
        import torch

        known = self._any_rank is not None and bool(self._any_rank())
        any_rank = torch.full((), float(self.asked_at is not None), device=device)
        torch.distributed.all_reduce(any_rank, torch.distributed.ReduceOp.MAX)
        self._any_rank = read_later(any_rank)
        return known


def end_after(checkpoint: str) -> NoReturn:
    """End a process that SIGTERM has asked for a checkpoint, now that rank 0 has saved it.

    Raises:
        Ended: always, once all ranks are here.
    """
    all_gather(None)  # rank 0 may still be writing, and the launcher of the rank that ends first ends the others
    raise Ended(f"stopped by SIGTERM: {checkpoint} is saved; run the same command again to resume")


def read_later(value: torch.Tensor) -> Callable[[], float]:
    """A function that gives a number to the host; it waits for what the GPU has been given so far, not for what follows."""
    if value.device.type != "cuda":
        return value.item
    import torch

    host = torch.empty((), dtype=value.dtype, pin_memory=True)
    host.copy_(value, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(value.device))

    def read() -> float:
        copied.synchronize()
        return host.item()

    return read
