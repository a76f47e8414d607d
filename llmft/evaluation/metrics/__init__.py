"""Metrics of predictions and right answers, as modules of the library `evaluate`: each file here is one; users add theirs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmft.errors import InputError

if TYPE_CHECKING:
    import evaluate

FOLDER = Path(__file__).parent


def metric_file(name: str) -> Path | None:
    """The file of a metric that is shipped, or that a path names; None for a name that `evaluate` looks for on the hub."""
    shipped = FOLDER / f"{name}.py"
    given = Path(name) / f"{Path(name).name}.py" if Path(name).is_dir() else Path(name)
    return next((file for file in (shipped, given) if file.is_file()), None)


@cache
def load_metric(name: str) -> evaluate.Metric:
    """A metric by its name here, its file, or its name on the hub; those here and files need no network.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    import evaluate

    file = metric_file(name)
    try:
        return evaluate.load(str(file or name), keep_in_memory=True)
    except Exception as error:  # a module is the user's own code, which may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"--metric {name}: cannot be loaded ({reason}); give one of {', '.join(shipped_metrics())}, the file of a module of "
            "the library evaluate, or its name on the hub"
        ) from error


def shipped_metrics() -> list[str]:
    """Names of the metrics in this folder."""
    return sorted(file.stem for file in FOLDER.glob("[a-z]*.py"))


def compute_metric(
    name: str, predictions: Sequence[int] | np.ndarray, references: Sequence[int] | np.ndarray
) -> dict[str, float]:
    """The numbers that a metric gives for N predictions and right answers: name -> value.

    Raises:
        InputError: the metric fails, or gives no number.
    """
    try:
        values = load_metric(name).compute(predictions=predictions, references=references)
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"--metric {name}: fails on {len(predictions)} predictions ({reason}); fix it, or leave it out"
        ) from error
    numbers = {key: float(value) for key, value in (values or {}).items() if isinstance(value, int | float | np.number)}
    if not numbers:
        raise InputError(f"--metric {name}: gives no number; give one that does, or leave it out")
    return numbers
