"""Run each job once, whatever other processes do; turn errors and signals into exit codes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from llmft.arguments.run import RunArguments
from llmft.cost.meter import Meter, process_meter
from llmft.errors import InputError
from llmft.pipelines.hub import push
from llmft.pipelines.job import Job
from llmft.runs.finished import Command, say_finished
from llmft.runs.launch import this_process
from llmft.runs.run_lock import RunLock
from llmft.runs.secrets import without_secrets
from llmft.runs.signals import Ended, end_at_once, on_sigterm
from llmft.runs.store import writing

LOOK_EVERY_S = 1.0
"""Seconds between two looks whether another process has ended its run."""


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], None]) -> list[Path]:
    """Do the work of every job that no process has finished. Input that one data seed alone cannot use does not keep the others
    from their results. Last, outside of any lock, students are pushed that are to be, those of earlier runs too.

    Returns:
        The folders of all runs.

    Raises:
        InputError: after all others are done, naming what failed.
    """
    from llmft.models.distributed import leave_together

    failed, first = [], None
    for job in jobs:
        try:
            run = job.config.run
            with writing(run.output_dir), oom_as_input_error(run), exclusively(job):
                if unfinished(job):
                    begun = process_meter()
                    job.first, job.meter = first, begun if begun.is_open else Meter(from_start=False)
                    first = first or job
                    with job.meter.measuring(count_flops=run.count_flops):
                        work(job)
        except InputError as error:
            if len(jobs) == 1 or this_process().world_size > 1:  # other ranks may not have failed: they cannot go on together
                raise
            failed.append(f"--data_seed {job.config.run.data_seed}: {error}")
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} data seeds failed: " + "; ".join(failed))
    pushed = [job for job in jobs if job.config.run.push_to_hub]
    if pushed:
        leave_together()  # an upload may take longer than ranks wait for each other
        for job in pushed:
            push(job)
    return [job.record.path for job in jobs]


def unfinished(job: Job) -> bool:
    """Whether a run is still to be done; says where its record is if not."""
    from llmft.models.distributed import from_rank_0

    if job.record.overwrite or not from_rank_0(job.record.finished):  # rank 0's view counts: disks may lag
        return True
    job.record.tidy()
    if job.record.writes:
        say_finished(job.record.path)
    return False


@contextmanager
def exclusively(job: Job) -> Iterator[None]:
    """Context: no other process does this run. Ranks of one launch do it together: rank 0 holds the lock. No rank is charged for
    the time in which another process holds it."""
    from llmft.models.distributed import from_rank_0

    lock = RunLock(job.record.path) if job.record.writes else None

    def taken() -> bool:
        return from_rank_0(lock is None or lock.take())

    if not taken():
        if lock is not None:
            sys.stderr.write(f"waiting: {job.record.path} is being done by {lock.holder}\n")
        with process_meter().waiting():
            while not taken():
                time.sleep(LOOK_EVERY_S)
    try:
        yield
    except BaseException:
        job.record.abandon()
        raise
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def oom_as_input_error(run: RunArguments) -> Iterator[None]:
    """Context: a device without room for a batch is bad input.

    Raises:
        InputError: it has none.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"--per_device_train_batch_size {run.per_device_train_batch_size}: the device has no room for such batches of this "
            "model, or for the model; lower it (and raise --gradient_accumulation_steps), or use a smaller model"
        ) from error


def run_main(main: Callable[[], Sequence[Path]], command: Command) -> None:
    """Run an entry script's `main` and end the process: bad input becomes one line on stderr and exit status 2; SIGTERM and
    Ctrl-C one line and 143 or 130. A rank whose peer has ended leaves it to that one to say why.

    Args:
        main: does the runs of the process's command line and gives their folders.
        command: where it is noted that they are finished.
    """
    from llmft.models.distributed import leave_together, lost_peer

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # raised by peft's calls, not by ours
    try:
        with on_sigterm(end_at_once):
            command.keep(main())
            leave_together()
            gc.freeze()  # else the interpreter looks once more through all that torch and transformers have made, over a second
    except InputError as error:
        let_rank_0_report()
        end(f"error: {without_secrets(str(error))}", 2)
    except RuntimeError as error:
        if lost_peer(error):
            wait_for_end(10)
        raise
    except KeyboardInterrupt:
        leave(Ended("interrupted: the same command goes on from what is saved", signal.SIGINT))
    except Ended as ended:
        leave(ended)


def leave(ended: Ended) -> NoReturn:
    """End a process that was told to."""
    end(ended.line if this_process().is_first else "", ended.code)


def end(line: str, code: int) -> NoReturn:
    """End a process with a last line on stderr."""
    from llmft.models.distributed import in_group

    if line:
        sys.stderr.write(f"{line}\n")  # in one piece: other ranks may write at the same time
    sys.stdout.flush()
    if in_group():
        os._exit(code)  # the group's threads would keep the process, or abort it
    sys.exit(code)


def let_rank_0_report() -> None:
    """Most errors occur on all ranks: rank 0 reports them at once, and its launcher ends the others before they do."""
    process = this_process()
    if not process.is_first:  # on another machine, where rank 0's launcher is not, its first rank reports
        wait_for_end(10 if process.local_rank == 0 else 20)


def wait_for_end(seconds: float) -> None:
    """Give the launcher time to end this process, in which there is nothing to save any more."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(seconds)
