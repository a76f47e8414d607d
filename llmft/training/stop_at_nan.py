"""Stop training at the first NaN or infinite loss: anything after it is useless, and must not get into a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmft.errors import InputError
from llmft.runs.ranks import all_gather, rank_and_world
from llmft.runs.record import last_checkpoint

POSITION = "position"
"""Key of a training example: its index, from 0."""
SHOWN = 64
"""Maximum number of rows that a message names."""


class Report(NamedTuple):
    """A problem that a rank reports.

    Attributes:
        step: from 1.
        what: what is not finite, for display.
        positions: indices of the batch's rows among the training examples.
        cause: why, if the trainer knows.
        is_loss: whether it is a loss, rather than weights.
    """

    step: int
    what: str
    positions: list[int]
    cause: str | None
    is_loss: bool


class StopAtNonFinite(TrainerCallback):
    """Stops training, on all ranks together, when a batch's loss or the weights become NaN or infinite.

    On a CPU every step is checked before the weights change. On a GPU that would mean waiting at every step, so losses stay there
    until they are logged, or something is evaluated or saved; no checkpoint is written between a bad loss and its check.

    Args:
        rows: the idx of the training examples, in their order.
        model_name: what training starts from.
    """

    def __init__(self, rows: Sequence[Any], model_name: str = "") -> None:
        self.rows, self.model_name = rows, model_name
        self.cause: Callable[[float, Sequence[int]], str | None] = lambda loss, positions: None
        """Why a loss (of rows at these positions) is not finite, if the trainer knows."""
        self.first_step = 0
        """The first step of this session, whose losses are those of the loaded weights."""
        self.unread: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self.last_step: tuple[int, list[torch.Tensor]] = (0, [])

    def see(self, step: int, loss: torch.Tensor, positions: torch.Tensor) -> None:
        """Record a batch's loss.

        Args:
            step: its step, from 1.
            loss: () the batch's loss.
            positions: (B,) indices of its rows among the training examples.
        """
        self.unread.append((step, loss.detach(), positions))
        if step != self.last_step[0]:
            self.last_step = (step, [])
        self.last_step[1].append(positions)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Record at which step training begins."""
        self.first_step = state.global_step + 1 if state.global_step == 0 else 0  # resumed weights have been trained

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check before the weights change, if that costs nothing."""
        if args.device.type == "cpu":
            self._look(args)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **_: Any
    ) -> None:
        """Check before anything is logged, evaluated or saved, and at the end."""
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
        """Check the losses since the last check, and the trained weights if given.

        Raises:
            InputError: on every rank, if one of them has something to report.
        """
        unread, self.unread = self.unread, []
        losses = torch.stack([loss.float() for _, loss, _ in unread]).tolist() if unread else []  # waits for the device once
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        report = None
        if bad is not None:
            step, _, positions = unread[bad]
            places = positions.tolist()
            report = Report(step, f"the loss of step {step} is {losses[bad]}", places, self.cause(losses[bad], places), True)
        elif model is not None and not weights_are_finite(model):
            step, batches = self.last_step
            what = f"the weights are not finite after step {step}"
            report = Report(step, what, torch.cat(batches).tolist(), None, False)
        reports = [report for report in all_gather(report) if report is not None]
        if not reports:
            return
        first = min(reports, key=lambda report: report.step)  # the same on all ranks, whatever this one has seen
        rows = [str(self.rows[p]) for report in reports if report.step == first.step for p in report.positions]
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        kept = last_checkpoint(Path(args.output_dir))
        last = f"; {kept.name} is kept" if kept else ""
        which = f"{first.what}, with the training rows idx {', '.join(rows[:SHOWN])}{more}"
        raise InputError(self._line(args, which, first.cause, untrained=first.is_loss and first.step == self.first_step) + last)

    def _line(self, args: TrainingArguments, which: str, cause: str | None, *, untrained: bool) -> str:
        """Flag first, remedy last.

        Args:
            which: what is wrong, and with which rows.
            cause: the cause, if the trainer knows it.
            untrained: whether no weight had been changed yet; then it cannot be the learning rate.
        """
        if cause is not None:
            flag, _, rest = cause.partition(": ")
            return f"{flag}: {which}: {rest}"
        if untrained and args.fp16:
            return f"--fp16 True: {which}, before this training has changed any weight; use --bf16, or full precision"
        if untrained:
            return (
                f"--model_name_or_path {self.model_name}: {which}, before this training has changed any weight; fix those "
                "rows, or try --torch_dtype float32"
            )
        return f"--learning_rate {args.learning_rate}: {which}; lower it, or fix those rows"


def share_of(weight: torch.Tensor) -> torch.Tensor:
    """The part of a weight that this rank checks: all of it, or its shard of one that ZeRO-3 has partitioned.

    Shards have equal lengths; the padding of the last ones is uninitialised memory.
    """
    share = getattr(weight, "ds_tensor", None)
    if share is None:
        return weight.detach()
    rank, _ = rank_and_world()
    return share.detach()[: max(0, weight.ds_numel - rank * len(share))]


def check_start(model_name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Check, on all ranks together, that weights are finite before they are trained.

    Args:
        weights: by name.

    Raises:
        InputError: one is not.
    """
    bad = None
    for name, weight in weights.items():
        share = share_of(weight)
        ends = torch.stack(share.aminmax()) if share.numel() else share
        if not ends.isfinite().all():
            bad = f"weight {name} is {'NaN' if ends.isnan().any() else 'infinite'}"
            break
    what = next((bad for bad in all_gather(bad) if bad is not None), None)
    if what is not None:
        raise InputError(
            f"--model_name_or_path {model_name}: {what} before training; save the model with finite numbers there (-1e4 for "
            "-inf), or train a part that leaves it as it is (--use_adapter)"
        )


def weights_are_finite(model: torch.nn.Module) -> bool:
    """Whether this rank's trained weights are finite."""
    trained = [share_of(weight) for weight in model.parameters() if weight.requires_grad]
    ends = [end for weight in trained if weight.numel() for end in weight.aminmax()]  # NaN is both ends; `isfinite` makes copies
    return all(torch.stack([end.isfinite() for end in ends]).tolist()) if ends else True
