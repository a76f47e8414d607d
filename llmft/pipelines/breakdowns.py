"""A run's scores broken down by document and by category."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from llmft.evaluation.scores import mean_of_known
from llmft.tasks.texts import CATEGORY, document_of

Parts = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Stage -> set -> name of a part -> `n`, its number of rows, and their metrics."""


def breakdowns(stages: Mapping[str, Mapping[str, Mapping[str, Any]]], predictions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`documents` and `categories` of metrics.json: stage -> set -> document or category -> its `n` rows and the metrics that
        are means over rows; left out if there are fewer than two documents or categories.

    Args:
        stages: the metrics of each stage and set.
        predictions: columns of each stage and set, as in the record.
    """
    predictions = [*predictions]
    parts = {
        "documents": _by(stages, predictions, "document", lambda name: name and document_of(name)),
        "categories": _by(stages, predictions, CATEGORY, lambda name: name),
    }
    return {
        name: scores
        for name, scores in parts.items()
        if len({part for sets in scores.values() for of in sets.values() for part in of}) > 1
    }


def _by(
    stages: Mapping[str, Mapping[str, Mapping[str, Any]]],
    predictions: Iterable[Mapping[str, Any]],
    column: str,
    name_of: Callable[[str | None], str | None],
) -> Parts:
    scores: Parts = {}
    for columns in predictions:
        stage, name = columns["stage"], columns["set"]
        parts = np.array([*map(name_of, columns.get(column, ()))], object)
        measures = [metric for metric in stages[stage][name] if metric in columns and metric != "nll"]  # a mean over tokens
        for part in sorted({*parts} - {None}):
            rows = parts == part
            values = {"n": int(rows.sum())}
            for metric in measures:
                known = mean_of_known(metric, np.asarray(columns[metric])[rows])
                values |= known if known.get(f"n_{metric}") != values["n"] else {metric: known[metric]}
            scores.setdefault(stage, {}).setdefault(name, {})[part] = values
    return scores
