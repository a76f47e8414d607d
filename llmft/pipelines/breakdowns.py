"""The scores of a run document by document and category by category, beside those of all together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmft.tasks.texts import CATEGORY, document_of

if TYPE_CHECKING:
    from llmft.evaluation.scores import Headline

Shares = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Stage -> set -> name of a part -> `n`, its rows, and their scores."""


def breakdowns(predictions: Iterable[Mapping[str, Any]], headline: Headline) -> dict[str, Any]:
    """`documents` and `categories` of metrics.json: stage -> set -> document or category -> `n` rows of it, their headline and,
    where programs were run, `runs`; without those of which there are fewer than two.

    Args:
        predictions: columns of each stage and set, as the record has them.
    """
    predictions = [*predictions]
    parts = {
        "documents": _by(predictions, "document", headline, lambda name: name and document_of(name)),
        "categories": _by(predictions, CATEGORY, headline, lambda name: name),
    }
    return {
        name: scores
        for name, scores in parts.items()
        if len({part for sets in scores.values() for of in sets.values() for part in of}) > 1
    }


def _by(
    predictions: Iterable[Mapping[str, Any]], column: str, headline: Headline, name_of: Callable[[str | None], str | None]
) -> Shares:
    scores: Shares = {}
    for columns in predictions:
        names = np.array([*map(name_of, columns.get(column, ()))], object)
        for name in sorted({*names} - {None}):
            rows = names == name
            values = {"n": int(rows.sum()), headline.name: float(np.mean(columns["score"][rows]))}
            values |= {"runs": float(np.mean(columns["runs"][rows]))} if "runs" in columns else {}
            scores.setdefault(columns["stage"], {}).setdefault(columns["set"], {})[name] = values
    return scores
