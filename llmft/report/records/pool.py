"""Work on many runs by several processes; on few by this one, since starting others would take longer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from llmft.errors import InputError

T = TypeVar("T")

MANY = 500
"""Runs from which on other processes are worth it."""
PART = 50
"""Runs that a process does at a time."""
MOST = 4
"""Processes, where there are as many cores."""
DIED = "a process that read records for the report was killed, as a rule for want of memory; free some, or report on fewer runs"


class Workers:
    """Who does the work: this process, and from the first time on that there is work on many runs, others.

    Leaving it raises InputError where one of the others was killed.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if kind is not None and issubclass(kind, BrokenProcessPool):
            raise InputError(DIED) from None

    def in_parts(self, work: Callable[..., T], items: Sequence[Any], *more: Any) -> Iterator[T]:
        """`work(part, *more)` of all parts of the items, in their order."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self._pool is None and len(items) >= MANY and cores > 1:
            self._pool = ProcessPoolExecutor(min(cores, MOST))
        parts = [items[start : start + PART] for start in range(0, len(items), PART)]
        return (map if self._pool is None else self._pool.map)(work, parts, *([one] * len(parts) for one in more))

    def begin(self, work: Callable[..., T], *args: Any) -> Callable[[], T]:
        """Begin `work(*args)`, by another process if there are any; what is returned waits for it and gives its result."""
        if self._pool is not None:
            return self._pool.submit(work, *args).result
        result = work(*args)
        return lambda: result
