"""How the commands of this world run: devices and ranks, one process a run, signals and errors as in the entry scripts."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from llmft.cost.meter import Meter, process_meter
from llmft.errors import InputError
from llmft.runs.finished import say_finished
from llmft.runs.launch import join_launch, this_process
from llmft.runs.record import RunRecord
from llmft.runs.run_lock import RunLock
from llmft.runs.signals import Ended, end_at_once, on_sigterm
from llmft.runs.store import writing


def run_command(main: Callable[[list[str] | None], None]) -> None:
    """Run a command and end the process: bad input is one line and exit status 2, SIGTERM and Ctrl-C one line and 143 or 130."""
    try:
        with on_sigterm(end_at_once):
            main(None)
            if distributed.is_initialized():
                distributed.barrier()  # what ends first has its launcher end the others
                distributed.destroy_process_group()
    except InputError as error:
        _end(f"error: {error}", 2)
    except KeyboardInterrupt:
        _end("interrupted: the same command goes on from what is saved", 128 + signal.SIGINT)
    except Ended as ended:
        _end(ended.line, ended.code)


def _end(line: str, code: int) -> None:
    if this_process().is_first:
        sys.stderr.write(f"{line}\n")
    sys.stdout.flush()
    if distributed.is_initialized():
        os._exit(code)  # the threads of the group would keep the process
    sys.exit(code)


def use_device(name: str) -> torch.device:
    """The device of this process, which joins the other ranks of its launch.

    Raises:
        InputError: there is no such device.
    """
    torch.set_num_threads(1)  # matrices this small gain nothing from more, and one thread gives the same bits again
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU; use --device cpu")
    join_launch(alone=False)
    process = this_process()
    device = torch.device(name, process.local_rank) if name == "cuda" else torch.device(name)
    if process.world_size > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if name == "cuda" else "gloo")
    return device


def gathered(value: Any) -> list[Any]:
    """Every rank's value, in rank order."""
    values = [value] * this_process().world_size
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def of_first_rank(value: Any) -> Any:
    """The first rank's value on every rank."""
    return gathered(value)[0]


@contextmanager
def doing(record: RunRecord, output_dir: str) -> Iterator[Meter | None]:
    """Context: this run is done by this process, or the ranks of this launch, alone; another that is at it is waited for. Yields
    an open meter, or None where the run is finished.

    Raises:
        InputError: the output folder cannot be written to, or the device has no room for a batch.
    """
    lock = RunLock(record.path) if record.writes else None
    with writing(output_dir):
        if not of_first_rank(lock is None or lock.take()):
            if lock is not None:
                sys.stderr.write(f"waiting: {record.path} is being done by {lock.holder}\n")
            with process_meter().waiting():
                while not of_first_rank(lock is None or lock.take()):
                    time.sleep(1.0)
        try:
            if of_first_rank(record.finished) and not record.overwrite:
                if record.writes:
                    say_finished(record.path)
                yield None
                return
            begun = process_meter()
            meter = begun if begun.is_open else Meter(from_start=False)
            with meter.measuring():
                yield meter
        except torch.OutOfMemoryError as error:
            record.abandon()
            raise InputError(
                "--batch_size: the device has no room for such batches; lower it, or train fewer models side by side"
            ) from error
        except BaseException:
            record.abandon()
            raise
        finally:
            if lock is not None:
                lock.release()
