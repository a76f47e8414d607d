"""How a program ends: bad input, signals and lost peers become exit codes, each with one line on stderr."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from llmft.errors import InputError
from llmft.runs.launch import this_process
from llmft.runs.ranks import end_together, lost_peer
from llmft.runs.secrets import without_secrets
from llmft.runs.signals import TO_CONTINUE, Ended, end_at_once, on_signals


def run_main(main: Callable[[], object]) -> None:
    """Run a program's `main` and end the process: bad input becomes one line on stderr and exit status 2; SIGTERM and Ctrl-C one
    line and 143 or 130. A rank whose peer has ended leaves it to that one to say why."""
    try:
        with exit_on_bad_input(), on_signals(end_at_once, signal.SIGTERM):
            main()
            end_together()
            gc.freeze()  # else the interpreter looks once more through all that torch and transformers have made, over a second
    except RuntimeError as error:
        if lost_peer(error):
            wait_for_end(10)
        raise
    except KeyboardInterrupt as interrupted:
        leave(Ended(str(interrupted) or f"interrupted{TO_CONTINUE}", signal.SIGINT))
    except Ended as ended:
        leave(ended)


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Context: bad input ends the process with one line on stderr and exit status 2."""
    try:
        yield
    except InputError as error:
        let_rank_0_report()
        end(f"error: {without_secrets(str(error))}", 2)


@contextmanager
def oom_as_input_error(line: str) -> Iterator[None]:
    """Context: a device without room for a batch is bad input.

    Raises:
        InputError: it has none; `line` says what to do.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(line) from error


def leave(ended: Ended) -> NoReturn:
    """End a process that was told to."""
    end(ended.line if this_process().is_first else "", ended.code)


def end(line: str, code: int) -> NoReturn:
    """End a process with a last line on stderr."""
    if line:
        sys.stderr.write(f"{line}\n")  # in one piece: other ranks may write at the same time
    end_together(code)
    sys.exit(code)


def let_rank_0_report() -> None:
    """Most errors occur on all ranks: rank 0 reports them at once, and its launcher ends the others before they do."""
    process = this_process()
    if not process.is_first:  # on another machine, where rank 0's launcher is not, its first rank reports
        wait_for_end(10 if process.local_rank == 0 else 20)


def wait_for_end(seconds: float) -> None:
    """Give the launcher time to end this process, which has nothing left to save."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(seconds)
