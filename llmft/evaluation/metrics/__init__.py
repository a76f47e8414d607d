"""Metrics of predictions and right answers, as modules of the library `evaluate`: one per file in the folder of a kind of
answers; users can add their own."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from llmft.errors import InputError, one_line

if TYPE_CHECKING:
    import evaluate

FOLDER = Path(__file__).parent
TAKEN = {
    "label": "labels (predictions and references: numbers)",
    "text": "text answers (predictions: strings, references: lists of strings)",
    "rule": "answers that are judged by rules (--rules)",
}
"""Kind of answers (a folder here) -> what its metrics take."""


def metric_file(name: str, kind: str) -> Path | None:
    """The file of a metric that is shipped for this kind of answers, or that is given by a path; None for a name that
    `evaluate` looks up on the hub."""
    if name in shipped_metrics(kind):
        return FOLDER / kind / f"{name}.py"
    file = Path(name) / f"{Path(name).name}.py" if Path(name).is_dir() else Path(name)
    return file if file.is_file() else None


def module_texts(file: Path) -> dict[str, str]:
    """The source of a metric's module and of the modules that it imports from the same folder: file name -> text."""
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
def load_metric(name: str, kind: str) -> evaluate.Metric:
    """A metric by its name here, its file, or its name on the hub; only the last needs a network.

    Args:
        kind: the kind of answers to measure, a key of `TAKEN`.

    Raises:
        InputError: there is no such metric, it cannot be loaded, or it does not take answers of this kind.
    """
    import evaluate

    if name in shipped_metrics(kind):
        return _load_shipped(name, kind)
    names = ", ".join(shipped_metrics(kind))
    mismatch = f"--metric {name}: does not take {TAKEN[kind]}; use one of {names}, or the file of a module that does"
    if any(name in shipped_metrics(other) for other in TAKEN):
        raise InputError(mismatch)
    try:
        metric = evaluate.load(str(metric_file(name, kind) or name), keep_in_memory=True)
    except Exception as error:  # a module is the user's own code, which may raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"--metric {name}: cannot be loaded ({reason}); use one of {names}, the file of a module of the library evaluate, "
            "or its name on the hub"
        ) from error
    if kind not in _kinds(metric):
        raise InputError(mismatch)
    return metric


def _load_shipped(name: str, kind: str) -> evaluate.Metric:
    """One from this folder, imported directly: `evaluate.load` would need a writable cache of modules."""
    import evaluate

    classes = [value for value in vars(import_module(f"{__name__}.{kind}.{name}")).values() if isinstance(value, type)]
    metrics = [cls for cls in classes if issubclass(cls, evaluate.Metric) and not isabstract(cls)]
    with TemporaryDirectory() as folder:  # it creates one although it keeps everything in memory
        return metrics[0](keep_in_memory=True, cache_dir=folder)


def _kinds(metric: evaluate.Metric) -> set[str]:
    """The kinds of answers that a metric takes, by the features that it declares; it may declare several forms."""
    kinds = set()
    for form in metric.features if isinstance(metric.features, list) else [metric.features]:
        predictions, references = form.get("predictions"), form.get("references")
        if getattr(predictions, "dtype", None) != "string":
            kinds.add("label")
        elif getattr(getattr(references, "feature", None), "dtype", None) == "string":
            kinds.add("text")
    return kinds


def shipped_metrics(kind: str) -> list[str]:
    """Names of the metrics that are shipped for this kind of answers."""
    return sorted(file.stem for file in (FOLDER / kind).glob("[a-z]*.py"))


def row_scores(names: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Scores of N text answers under metrics that are shipped for them, from 0 to 1: name -> N scores.

    Args:
        references: the accepted answers of each row, at least one; the best one counts.

    Raises:
        ValueError: a row has no accepted answer, or the numbers of rows differ.
    """
    metrics = {name: load_metric(name, "text") for name in names}
    scores: dict[str, list[float]] = {name: [] for name in names}
    for prediction, accepted in zip(predictions, references, strict=True):  # by row: metrics share a text's words
        for name, metric in metrics.items():
            scores[name].append(metric.row_score(prediction, accepted))
    return scores


def compute_metric(
    name: str, kind: str, predictions: Sequence | np.ndarray, references: Sequence | np.ndarray
) -> dict[str, float]:
    """The values of a metric for N predictions and right answers: name -> value.

    Args:
        kind: the kind of these answers, a key of `TAKEN`.
        predictions: numbers of labels, or texts.
        references: numbers of labels, or for each row the accepted texts, at least one.

    Raises:
        InputError: the metric does not take answers of this kind, fails, or gives no number.
    """
    try:
        values = load_metric(name, kind).compute(predictions=predictions, references=references)
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"--metric {name}: fails on {len(predictions)} predictions ({reason}); fix or drop it") from error
    numbers = {key: float(value) for key, value in (values or {}).items() if isinstance(value, int | float | np.number)}
    if not numbers:
        raise InputError(f"--metric {name}: gives no number; use one that does")
    return numbers


def more_metrics(
    names: Sequence[str],
    kind: str,
    predictions: Sequence | np.ndarray,
    references: Sequence | np.ndarray,
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """The metrics of a set together with these further ones; if the name of a value is taken, the metric's name is prefixed to
    it.

    Args:
        names: as in `compute_metric`, which also has the other arguments and errors.
        metrics: the metrics so far.
    """
    metrics = dict(metrics)
    for metric in names:
        for name, value in compute_metric(metric, kind, predictions, references).items():
            metrics[f"{Path(metric).stem}_{name}" if name in metrics else name] = value
    return metrics
