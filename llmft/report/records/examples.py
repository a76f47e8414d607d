"""One run's answers in words, row by row: what was asked, what would have been right, and what was answered at each stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from llmft.report.records.names import FINAL_STAGES, SELECTION_NAMES, SELECTIONS
from llmft.report.records.predictions import COLUMNS, read_predictions

CHANGED = ("from wrong to right", "from right to wrong", "better", "worse")
OUTCOMES = (*CHANGED, "still wrong", "unchanged", "still right", "wrong", "in part", "right")
"""What became of a row, in the order in which rows are shown; the last three where a run has nothing to compare with."""
WHOLE = {(0, 1): CHANGED[0], (1, 0): CHANGED[1], (0, 0): "still wrong", (1, 1): "still right"}
"""Scores before and after -> outcome."""
WORDS = ("query", "document", "accepted")
"""Columns of the predictions beside `COLUMNS` that hold texts."""


class Answer(NamedTuple):
    """What was answered at a stage: the text, its score by the headline, and what else the row is measured by."""

    text: str
    score: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Example:
    """A row of a set.

    Attributes:
        reference: the accepted answers, the one that is trained on first.
        outcome: one of `OUTCOMES`.
        answers: by stage; a stage that was not asked this row is not in it.
    """

    set: str
    idx: Any
    document: str | None
    query: str
    reference: list[str]
    outcome: str
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Examples:
    """The rows of a run that are shown.

    Attributes:
        stages: in the order in which they are shown.
        final: the one that the run is judged by.
        rows: those that changed first.
        counts: outcome -> how many rows of the run have it; in the order of `OUTCOMES`.
    """

    stages: list[str]
    final: str
    rows: list[Example]
    counts: dict[str, int]

    @property
    def left_out(self) -> int:
        """How many rows the run has beside those that are shown."""
        return sum(self.counts.values()) - len(self.rows)


def outcome(before: float | None, after: float) -> str:
    """What became of a row whose scores, 0 (wrong) to 1 (right), these are; `before` is None where there is none."""
    if before is None:
        return {0: "wrong", 1: "right"}.get(after, "in part")
    if (before, after) in WHOLE:
        return WHOLE[before, after]
    return "better" if after > before else "worse" if after < before else "unchanged"


def read_examples(record: Path, metrics: Mapping[str, Any], most: int) -> Examples | None:
    """At most so many rows of the run in a folder; None if its answers are not in words.

    Of rows that changed, and of the others behind them, all outcomes and sets have a share.

    Args:
        metrics: its `metrics.json`.

    Raises:
        OSError: the predictions cannot be read.
    """
    names = {name for sets in metrics["stages"].values() for values in sets.values() for name in values} | {"kl"}
    predictions = read_predictions(record, names.union(WORDS))
    if not predictions.of_texts:
        return None
    frame = predictions.table.to_pandas().astype({"stage": str, "set": str})
    measures = [name for name in frame.columns if name in names and name not in COLUMNS]
    frame["again"] = frame.groupby(["stage", "set", "idx"]).cumcount()  # a set may have a row twice
    order = [stage for stage in sorted(frame["stage"].unique(), key=_place)]
    by_stage = {stage: frame[frame["stage"] == stage].set_index(["set", "idx", "again"]) for stage in order}
    final = next((stage for stage in FINAL_STAGES if stage in by_stage), order[-1])
    rows = by_stage[final]
    before = by_stage["before"]["score"].reindex(rows.index) if "before" in by_stage and final != "before" else None
    earlier = [None] * len(rows) if before is None else [None if math.isnan(score) else score for score in before]
    outcomes = pd.Series([outcome(*pair) for pair in zip(earlier, rows["score"], strict=True)], rows.index)
    counts = Counter(outcomes)
    shown = _chosen(outcomes, most)
    answers = {stage: _answers(part.reindex(shown.index), measures) for stage, part in by_stage.items()}
    return Examples(
        order,
        final,
        [
            Example(
                *(key[0], key[1], _text(row.get("document")), row["query"]),
                _accepted(row),
                shown[key],
                {stage: of_stage[place] for stage, of_stage in answers.items() if of_stage[place] is not None},
            )
            for place, (key, row) in enumerate(rows.loc[shown.index].iterrows())
        ],
        {name: counts[name] for name in OUTCOMES if counts[name]},
    )


def _place(stage: str) -> tuple[int, str]:
    """Where a stage stands: a teacher in front of its student, others in the order of tables."""
    order = ["icl", "teacher", *SELECTION_NAMES]
    name = SELECTIONS.get(stage, stage)
    return (order.index(name) if name in order else len(order)), stage


def _chosen(outcomes: pd.Series, most: int) -> pd.Series:
    """At most so many of the outcomes (by set and row), those of changed rows first; in the order in which they are shown."""
    frame = pd.DataFrame({"outcome": outcomes, "order": range(len(outcomes))})
    frame["rank"] = frame["outcome"].map(OUTCOMES.index)
    frame["same"] = frame["rank"] >= len(CHANGED)
    frame["turn"] = frame.groupby(["outcome", "set"]).cumcount()
    chosen = frame.sort_values(["same", "turn", "rank", "order"]).head(most)
    return chosen.sort_values(["rank", "order"])["outcome"]


def _answers(part: pd.DataFrame, measures: Iterable[str]) -> list[Answer | None]:
    """The answers of one stage to the rows of a table; None where it has none."""
    columns = {name: part[name].tolist() for name in measures}
    answers = []
    for place, (text, score) in enumerate(zip(part["prediction"], part["score"], strict=True)):
        values = {name: column[place] for name, column in columns.items() if not pd.isna(column[place])}
        answers.append(Answer(text, score, values) if isinstance(text, str) else None)
    return answers


def _accepted(row: pd.Series) -> list[str]:
    others = row.get("accepted")
    return list(dict.fromkeys([row["target"], *([] if others is None else others)]))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
