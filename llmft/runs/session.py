"""A process's session of a run: it alone does the run, measures it, and leaves nothing half-written."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from llmft.cost.meter import Meter, open_meter, process_meter
from llmft.runs.finished import say_finished
from llmft.runs.ranks import from_rank_0
from llmft.runs.record import RunRecord
from llmft.runs.run_lock import RunLock
from llmft.runs.store import writing

LOOK_EVERY_S = 1.0
"""Seconds between two looks whether another process has ended its run."""


@contextmanager
def session(record: RunRecord, output_dir: str, *, count_flops: bool = False) -> Iterator[Meter | None]:
    """Context: this process does the run, together with the other ranks of its launch, and nobody else does. Yields an open
    meter, or None where the run is finished, after saying where its record is.

    Raises:
        InputError: the output folder cannot be written to.
    """
    with writing(output_dir), exclusively(record):
        if not record.overwrite and from_rank_0(record.finished):  # rank 0's view counts: disks may lag
            record.tidy()
            if record.writes:
                say_finished(record.path)
            yield None
        else:
            meter = open_meter()
            with meter.measuring(count_flops=count_flops):
                yield meter


@contextmanager
def exclusively(record: RunRecord) -> Iterator[None]:
    """Context: no other process does this run. Ranks of one launch do it together: rank 0 holds the lock. No rank is charged for
    the time in which another process holds it."""
    lock = RunLock(record.path) if record.writes else None

    def taken() -> bool:
        return from_rank_0(lock is None or lock.take())

    if not taken():
        if lock is not None:
            sys.stderr.write(f"waiting: {record.path} is being done by {lock.holder}\n")
        with process_meter().waiting():
            while not taken():
                time.sleep(LOOK_EVERY_S)
    try:
        yield
    except BaseException:
        record.abandon()
        raise
    finally:
        if lock is not None:
            lock.release()
