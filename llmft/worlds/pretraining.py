"""Shared code for pretraining the small models of the worlds: flags, lessons, optimizers, progress, and saving."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from tqdm import tqdm

from llmft.errors import InputError
from llmft.runs.program import exit_on_bad_input
from llmft.runs.store import check_writable, whole_folder
from llmft.worlds.muon import Muon

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Report = Callable[[int, dict[str, float]], None]
"""Called after every step with its number, from 1, and the means of the metrics over the last 100 steps or fewer."""


@dataclass(frozen=True)
class Size:
    """Dimensions of a decoder; see OPTConfig and LlamaConfig."""

    layers: int
    width: int
    feed_forward: int
    heads: int


class Paced(Protocol):
    """A part of the schedule."""

    steps: int
    rate: float
    """Factor on all learning rates."""


Phase = TypeVar("Phase", bound=Paced)


class Scheduled:
    """Base of pretraining recipes."""

    phases: tuple[Paced, ...]

    @property
    def steps(self) -> int:
        """The number of steps in all phases together."""
        return sum(phase.steps for phase in self.phases)


def build_optimizers(
    layers: torch.nn.Module, modules: Iterable[torch.nn.Module], muon_rate: float, adam_rate: float
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the layers and AdamW for everything else in `modules`, each with its peak learning rate."""
    hidden = [parameter for parameter in layers.parameters() if parameter.ndim == 2]
    inside = {id(parameter) for parameter in hidden}
    rest = [parameter for module in modules for parameter in module.parameters() if id(parameter) not in inside]
    return [
        (Muon(hidden, lr=muon_rate), muon_rate),
        (torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.01), adam_rate),
    ]


def follow_schedule(
    phases: Sequence[Phase],
    step_loss: Callable[[Phase], tuple[torch.Tensor, dict[str, float]]],
    modules: Iterable[torch.nn.Module],
    optimizers: list[tuple[torch.optim.Optimizer, float]],
    report: Report,
) -> None:
    """Takes all steps; `step_loss` draws the batch of a step and returns its loss, and its metrics without the loss.

    Gradients are clipped to a norm of 1 over all parameters of `modules`.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    total, step, recent = sum(phase.steps for phase in phases), 0, []
    for phase in phases:
        for _ in range(phase.steps):
            loss, metrics = step_loss(phase)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * phase.rate * rate_factor(step, total)
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            recent = [*recent[-99:], {"loss": loss.item()} | metrics]
            report(step, mean_metrics(recent))


def rate_factor(step: int, total: int) -> float:
    """Factor on the learning rates: 100 steps of warm-up, constant until 60 %, then linear decay to 3 %."""
    warm_up = min(1.0, (step + 1) / 100)
    return warm_up * min(1.0, max(0.03, (1 - step / total) / 0.4))


def mean_metrics(recent: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    names = sorted({name for metrics in recent for name in metrics})
    return {name: fmean(metrics[name] for metrics in recent if name in metrics) for name in names}


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """`--output_dir` and `--seed`."""
    parser.add_argument("--output_dir", type=Path, required=True, help="where the model directory goes; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="decides data and initial weights (default: %(default)s)")


def read_flags(
    parser: argparse.ArgumentParser, argv: list[str] | None, check: Callable[[argparse.Namespace], None] = lambda _: None
) -> argparse.Namespace:
    """The flags; exits with status 2 and one line if `check` or the output path raises InputError."""
    arguments = parser.parse_args(argv)
    with exit_on_bad_input():
        check(arguments)
        if arguments.output_dir.exists():
            raise InputError(f"--output_dir {arguments.output_dir} exists: remove it or choose another")
        check_writable(arguments.output_dir, f"--output_dir {arguments.output_dir}")
    return arguments


@contextmanager
def progress(steps: int, done: int = 0):
    """Yields a `Report` that draws a bar, or logs a line every 100 steps without a terminal; `done`: steps taken before."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    started = time.monotonic()
    with tqdm(total=steps, initial=done, unit="step", disable=None) as bar:

        def report(step: int, means: dict[str, float]) -> None:
            bar.update()
            if step % 100 == 0:
                line = " ".join(f"{name} {value:.3f}" for name, value in means.items())
                bar.set_postfix_str(line)
                if bar.disable:
                    log.info("%d/%d %.0fs %s", step, steps, time.monotonic() - started, line)

        yield report


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output_dir: Path, record: dict) -> None:
    """Writes model, tokenizer and `pretraining.json`: the directory appears complete or not at all, and never replaces one that
    has files."""
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output_dir, replace=False) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
    log.info("wrote %s", output_dir)
