"""The page's text answers: rows of some runs, as JSON for its script `examples.js`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.records.collect import Collection
from llmft.report.records.examples import Answer, Example, read_examples
from llmft.report.records.find import Unreadable, read_record
from llmft.report.records.flatten import SEEDS
from llmft.report.records.names import metric_name, shown_method, stage_name

if TYPE_CHECKING:
    from llmft.report.records.examples import Examples

RUNS, ROWS = 20, 200
"""Maximum number of runs, and of rows of each, in the page."""
LONG = 4000
"""Maximum characters of a text in the page."""


def page_examples(collection: Collection) -> dict[str, Any]:
    """`runs`, row by row, and the number of runs `left_out`; the runs shown are taken from all settings in turn.

    A run that is being done again by now is left out.
    """
    texts = collection.runs[collection.runs["id"].isin(collection.texts)]
    texts = texts.assign(place=texts.groupby("setting", sort=False).ngroup()).sort_values(["place", *SEEDS], ignore_index=True)
    turns = texts.groupby("place").cumcount().sort_values(kind="stable")
    made = []
    for _, row in texts.loc[sorted(turns.index[:RUNS])].iterrows():
        with suppress(Unreadable, OSError):
            made.append(_run(collection, row))
    return {"runs": made, "left_out": len(texts) - len(made)}


def _run(collection: Collection, run: pd.Series) -> dict[str, Any]:
    place = collection.places[run["id"]]
    _, metrics, _ = read_record(place)
    examples: Examples = read_examples(place, metrics, ROWS)
    model = f", {run['model']}" if collection.runs["model"].nunique() > 1 else ""
    seeds = f"seed {run['seed']}" + ("" if run["data_seed"] == run["seed"] else f", data seed {run['data_seed']}")
    return {
        "title": f"{run['task']}{model}: {shown_method(run.to_dict())}, {seeds} ({run['id']})",
        "metric": metric_name(run["headline"]),
        "stages": [stage_name(stage) for stage in examples.stages],
        "final": examples.stages.index(examples.final),
        "counts": list(examples.counts.items()),
        "left_out": examples.left_out,
        "rows": [_row(example, examples.stages) for example in examples.rows],
    }


def _row(example: Example, stages: Sequence[str]) -> dict[str, Any]:
    return {
        "set": example.set,
        "idx": str(example.idx),
        "document": _cut(example.document or ""),
        "outcome": example.outcome,
        "query": _cut(example.query),
        "reference": [*map(_cut, example.reference)],
        "answers": [_answer(example.answers.get(stage)) for stage in stages],
    }


def _answer(answer: Answer | None) -> list[Any] | None:
    """Text, score, and all metrics of the row as text."""
    if answer is None:
        return None
    measures = "\n".join(f"{metric_name(name)} {value:.3g}" for name, value in answer.metrics.items())
    return [_cut(answer.text), float(f"{answer.score:.4g}"), measures]


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]} ... ({len(text) - LONG} more characters in predictions.parquet)"
