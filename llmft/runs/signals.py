"""How SIGTERM stops a process: one line, exit status 128 + the signal's number, nothing half-written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Ended(SystemExit):
    """A signal has stopped the process; `line` says what remains of its work."""

    def __init__(self, line: str, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.line = line


def end_at_once(*_: Any) -> None:
    """A handler of SIGTERM.

    Raises:
        Ended: always, wherever the process is; temporary files are removed.
    """
    raise Ended("stopped by SIGTERM; run the same command again to resume")


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
