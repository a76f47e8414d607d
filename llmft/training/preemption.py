"""SIGTERM during training, as Slurm sends it before it takes a node away: a checkpoint at the end of the step, and exit 143."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmft.models.distributed import all_gather, rank_and_world
from llmft.runs.signals import Ended, end_at_once, on_sigterm

SAME_S = 5.0
"""Seconds in which another SIGTERM is the same one: a sweep sends it to all processes, and their launcher passes its own on."""


class SaveAtSigterm(TrainerCallback):
    """Has a checkpoint saved once any rank has been sent SIGTERM, by which `EndOnceSaved` ends; another SIGTERM later ends the
    process at once.

    What a step's end brings in any case, an evaluation too, comes first: the checkpoint must hold it. Behind the last step there
    is no checkpoint, so that SIGTERM ends the process at once again.

    It must stand before `StopAtNonFinite`, which looks at the weights that a step's end will save.
    """

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self.ending = self.last = False
        self._any: Callable[[], float] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context: SIGTERM during training asks for a checkpoint."""
        with on_sigterm(self._ask):
            yield

    def _ask(self, *_: Any) -> None:
        if self.last or (self.asked_at is not None and time.monotonic() - self.asked_at > SAME_S):
            end_at_once()
        self.asked_at = self.asked_at or time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Have a checkpoint saved if all ranks know that one was asked."""
        self.last = state.global_step >= state.max_steps
        if self.last and self.asked_at is not None:
            end_at_once()
        if self._all_know(args.device) and not self.last:
            control.should_save = self.ending = True
        return control

    def _all_know(self, device: torch.device) -> bool:
        """Whether any rank has been asked; all give the same answer. Of several, it is that of the step before, so that a GPU has
        this step's work to do while it is waited for."""
        if rank_and_world()[1] == 1:
            return self.asked_at is not None
        known = self._any is not None and bool(self._any())
        any_rank = torch.full((), float(self.asked_at is not None), device=device)
        torch.distributed.all_reduce(any_rank, torch.distributed.ReduceOp.MAX)
        self._any = later(any_rank)
        return known


class EndOnceSaved(TrainerCallback):
    """Ends the process when the checkpoint is saved that `SaveAtSigterm` has asked for.

    It must stand behind all that a checkpoint is made of.
    """

    def __init__(self, saving: SaveAtSigterm) -> None:
        self.saving = saving

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End if it was asked for.

        Raises:
            Ended: it was.
        """
        if self.saving.ending:
            all_gather(None)  # rank 0 may still be writing: what ends first has its launcher end the others
            raise Ended(f"ended by SIGTERM: checkpoint-{state.global_step} is saved, and the same command goes on from there")


def later(value: torch.Tensor) -> Callable[[], float]:
    """What gives a number to the host; it waits for what a GPU has been given until now, not for what follows."""
    if value.device.type != "cuda":
        return value.item
    host = torch.empty((), dtype=value.dtype, pin_memory=True)
    host.copy_(value, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(value.device))

    def read() -> float:
        copied.synchronize()
        return host.item()

    return read
