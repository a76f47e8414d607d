"""How SIGTERM and Ctrl-C stop a process: one line, exit status 128 + the signal's number, nothing half-written. Training saves a
checkpoint first: Slurm sends SIGTERM before it takes a node away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from llmft.runs.launch import this_process
from llmft.runs.ranks import all_gather, rank_and_world

if TYPE_CHECKING:
    import torch

SAME_S = 5.0
"""Seconds in which another signal is the same one: a sweep or a terminal sends it to all processes, and their launcher passes its
own on."""

TO_CONTINUE = "; run the same command again to continue from what is saved"


class Ended(SystemExit):
    """A signal has stopped the process; `line` says what remains of its work."""

    def __init__(self, line: str, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.line = line


def _end(number: int, kept: str) -> NoReturn:
    """End a process that a signal has stopped.

    Args:
        kept: the rest of the line that says so.

    Raises:
        Ended: after SIGTERM.
        KeyboardInterrupt: after Ctrl-C.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt(f"interrupted{kept}")
    raise Ended(f"stopped by SIGTERM{kept}")


def end_at_once(number: int = signal.SIGTERM, _frame: Any = None) -> NoReturn:
    """A handler of signals.

    Raises:
        Ended, KeyboardInterrupt: always, wherever the process is; temporary files are removed.
    """
    _end(number, TO_CONTINUE)


@contextmanager
def on_signals(handler: Callable[..., None] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """Context: these signals call `handler`, or have the system's default effect, unless the process was started to ignore them.
    Only a process's main thread can set this; in other threads nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number for number in numbers if before[number] != signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


class Preemption:
    """SIGTERM or Ctrl-C in training: a checkpoint is saved at the end of the step, and then the process ends. Another signal
    later ends it at once, and so does one during the last step."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self._number: int = signal.SIGTERM  # also where another rank was asked
        self._last = False
        self._any_rank: Callable[[], float] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context: SIGTERM and Ctrl-C ask for a checkpoint."""
        with on_signals(self._ask, signal.SIGTERM, signal.SIGINT):
            yield

    def _ask(self, number: int, _frame: Any) -> None:
        if self._last or (self.asked_at is not None and time.monotonic() - self.asked_at > SAME_S):
            end_at_once(number)
        if self.asked_at is None:
            self.asked_at, self._number = time.monotonic(), number
            if number == signal.SIGINT and this_process().is_first:  # os.write: the signal may have come amid another line
                os.write(2, f"\nsaves a checkpoint at the end of this step; Ctrl-C after {SAME_S:.0f} s stops at once\n".encode())

    def asks_to_save(self, device: torch.device, *, last: bool) -> bool:
        """Whether a checkpoint is to be saved at the end of this step, and the process ended by `end_after`. All ranks call this
        at every step and get the same answer.

        Args:
            device: what the ranks compute on.
            last: whether this is the last step.

        Raises:
            Ended, KeyboardInterrupt: the signal has come during the last step.
        """
        self._last = last
        if last and self.asked_at is not None:
            end_at_once(self._number)
        return self._any_asked(device) and not last

    def end_after(self, checkpoint: str) -> NoReturn:
        """End the process, now that rank 0 has saved the checkpoint that was asked for.

        Raises:
            Ended, KeyboardInterrupt: always, once all ranks are here.
        """
        all_gather(None)  # rank 0 may still be writing, and the launcher of the rank that ends first ends the others
        _end(self._number, f": {checkpoint} is saved; run the same command again to resume")

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
