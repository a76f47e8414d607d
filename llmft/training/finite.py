"""A loss that is no finite number ends training at once: what follows it cannot be used, and a checkpoint must not hold it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmft.errors import InputError
from llmft.models.gather import all_gather
from llmft.runs.record import last_checkpoint

POSITION = "position"
"""Key of a training example: its place among them, from 0."""
SHOWN = 64
"""Rows that a message names at most."""


class StopAtNonFinite(TrainerCallback):
    """Stops training, on all ranks together, when a batch's loss is NaN or infinite, or the weights have become so.

    On a CPU every step is looked at before the weights change. A GPU is not waited for at every step: losses stay on it until
    they are logged, or something is evaluated or saved; no checkpoint comes between a bad loss and the look at it.

    Args:
        rows: the idx of the training examples, in their order.
    """

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows
        self.unread: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self.last_step: tuple[int, list[torch.Tensor]] = (0, [])

    def see(self, step: int, loss: torch.Tensor, positions: torch.Tensor) -> None:
        """Take note of a batch's loss.

        Args:
            step: that it belongs to, from 1.
            loss: () the batch's loss.
            positions: (B,) places of its rows among the training examples.
        """
        self.unread.append((step, loss.detach(), positions))
        if step != self.last_step[0]:
            self.last_step = (step, [])
        self.last_step[1].append(positions)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look before the weights change, where that costs nothing."""
        if args.device.type == "cpu":
            self._look(args)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **_: Any
    ) -> None:
        """Look before anything is logged, evaluated or saved, and at the end."""
        if control.should_evaluate or control.should_save or state.global_step >= state.max_steps:
            self._look(args, model)
        elif control.should_log:
            self._look(args)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **_: Any
    ) -> None:
        """As at the end of a step."""
        self.on_step_end(args, state, control, model)

    def _look(self, args: TrainingArguments, model: torch.nn.Module | None = None) -> None:
        """Look at the losses since the last time, and at the trained weights if they are given.

        Raises:
            InputError: on every rank, if one of them has found something.
        """
        unread, self.unread = self.unread, []
        losses = torch.stack([loss.float() for _, loss, _ in unread]).tolist() if unread else []  # one wait for the device
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        found = None
        if bad is not None:
            step, _, positions = unread[bad]
            found = (step, f"the loss of step {step} is {losses[bad]}", positions.tolist())
        elif model is not None and not weights_are_finite(model):
            step, batches = self.last_step
            found = (step, f"step {step} has left weights that are no finite numbers", torch.cat(batches).tolist())
        reports = [report for report in all_gather(found) if report is not None]
        if not reports:
            return
        first = min(step for step, _, _ in reports)
        what = next(what for step, what, _ in reports if step == first)
        rows = [str(self.rows[p]) for step, _, positions in reports if step == first for p in positions]
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        kept = last_checkpoint(Path(args.output_dir))
        last = f"; {kept.name} is kept" if kept else ""
        raise InputError(
            f"--learning_rate {args.learning_rate}: {what}, with the training rows idx {', '.join(rows[:SHOWN])}{more}; "
            f"lower it, or mend those rows{last}"
        )


def weights_are_finite(model: torch.nn.Module) -> bool:
    """Whether this rank's trained weights (its share of those that ZeRO-3 has cut up) are finite numbers."""
    trained = [getattr(p, "ds_tensor", p).detach() for p in model.parameters() if p.requires_grad]
    ends = [end for weight in trained if weight.numel() for end in weight.aminmax()]  # NaN is both ends; `isfinite` makes copies
    return all(torch.stack([end.isfinite() for end in ends]).tolist()) if ends else True
