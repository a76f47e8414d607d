"""What the page has of answers in words: rows of some runs, as JSON for its script `examples.js`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.records.collect import Collection
from llmft.report.records.examples import Answer, Example, read_examples
from llmft.report.records.find import read_record
from llmft.report.records.names import metric_name, shown_method, stage_name

if TYPE_CHECKING:
    from llmft.report.records.examples import Examples

RUNS, ROWS = 20, 200
"""The most runs, and rows of each, whose answers are in the page."""
LONG = 4000
"""Characters of a text that are."""


def page_examples(collection: Collection) -> dict[str, Any]:
    """`runs`, row by row, and how many more are `left_out`; settings take turns in which runs are shown."""
    texts = collection.runs[collection.runs["id"].isin(collection.texts)]
    turns = texts.groupby("setting", sort=False).cumcount().sort_values(kind="stable")
    chosen = texts.loc[turns.index[:RUNS]].sort_index()
    made = [_run(collection, row) for _, row in chosen.iterrows()]
    return {"runs": made, "left_out": len(texts) - len(made)}


def _run(collection: Collection, run: pd.Series) -> dict[str, Any]:
    place = collection.places[run["id"]]
    _, metrics, _ = read_record(place)
    examples: Examples = read_examples(place, metrics, ROWS)
    model = f", {run['model']}" if collection.runs["model"].nunique() > 1 else ""
    seeds = f"seed {run['seed']}, data seed {run['data_seed']}"
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
    """Text, score, and what the row is measured by, as text."""
    if answer is None:
        return None
    measures = "\n".join(f"{metric_name(name)} {value:.3g}" for name, value in answer.metrics.items())
    return [_cut(answer.text), float(f"{answer.score:.4g}"), measures]


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]} ... ({len(text) - LONG} characters more in predictions.parquet)"
