"""How SIGTERM ends a process: one line, exit status 128 + the signal's number, nothing half-written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Ended(SystemExit):
    """A signal has ended the process; `line` says what is left of its work."""

    def __init__(self, line: str, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.line = line


def end_at_once(*_: Any) -> None:
    """A handler of SIGTERM.

    Raises:
        Ended: always, from wherever the process is; files that are being written aside go away.
    """
    raise Ended("ended by SIGTERM: the same command goes on from what is saved")


@contextmanager
def on_sigterm(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """Context: SIGTERM calls `handler`, or does what the system has it do. Only a process's main thread may say so; others leave
    things as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
