"""The scores of a run document by document, beside those of all together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmft.tasks.texts import document_of

if TYPE_CHECKING:
    from llmft.evaluation.scores import Headline


def by_document(predictions: Iterable[Mapping[str, Any]], headline: Headline) -> dict[str, Any]:
    """`documents` of metrics.json: stage -> set -> document -> `n` rows about it and their headline; {} for rows about fewer than
    two documents.

    Args:
        predictions: columns of each stage and set, as the record has them.
    """
    scores: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for columns in predictions:
        documents = np.array([name and document_of(name) for name in columns.get("document", ())], object)
        for name in sorted({*documents} - {None}):
            rows = documents == name
            values = {"n": int(rows.sum()), headline.name: float(np.mean(columns["score"][rows]))}
            scores.setdefault(columns["stage"], {}).setdefault(columns["set"], {})[name] = values
    number = len({name for sets in scores.values() for documents in sets.values() for name in documents})
    return {"documents": scores} if number > 1 else {}
