"""Metrics of predictions and right answers, as modules of the library `evaluate`: each file here is one; users add theirs."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from llmft.errors import InputError, one_line

if TYPE_CHECKING:
    import evaluate

FOLDER = Path(__file__).parent


def metric_file(name: str) -> Path | None:
    """The file of a metric that is shipped, or that a path names; None for a name that `evaluate` looks for on the hub."""
    if name in shipped_metrics():
        return FOLDER / f"{name}.py"
    file = Path(name) / f"{Path(name).name}.py" if Path(name).is_dir() else Path(name)
    return file if file.is_file() else None


def module_texts(file: Path) -> dict[str, str]:
    """The text of a metric's module and of those that it imports from beside it: file name -> text."""
    texts: dict[str, str] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path.name in texts or not path.is_file():
            continue
        texts[path.name] = path.read_text(encoding="utf-8")
        imports = [node for node in ast.walk(ast.parse(texts[path.name])) if isinstance(node, ast.ImportFrom)]
        waiting += [path.with_name(f"{node.module}.py") for node in imports if node.level == 1]
    return texts


@cache
def load_metric(name: str) -> evaluate.Metric:
    """A metric by its name here, its file, or its name on the hub; those here and files need no network.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    import evaluate

    if name in shipped_metrics():
        return _load_shipped(name)
    try:
        return evaluate.load(str(metric_file(name) or name), keep_in_memory=True)
    except Exception as error:  # a module is the user's own code, which may raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"--metric {name}: cannot be loaded ({reason}); give one of {', '.join(shipped_metrics())}, the file of a module of "
            "the library evaluate, or its name on the hub"
        ) from error


def _load_shipped(name: str) -> evaluate.Metric:
    """One of this folder, imported as it is: `evaluate.load` would need a cache of modules that can be written to."""
    import evaluate

    module = import_module(f"{__name__}.{name}")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, evaluate.Metric)]
    with TemporaryDirectory() as folder:  # it makes one, though it keeps everything in memory
        return kinds[0](keep_in_memory=True, cache_dir=folder)


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
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"--metric {name}: fails on {len(predictions)} predictions ({reason}); fix it, or leave it out"
        ) from error
    numbers = {key: float(value) for key, value in (values or {}).items() if isinstance(value, int | float | np.number)}
    if not numbers:
        raise InputError(f"--metric {name}: gives no number; give one that does, or leave it out")
    return numbers
