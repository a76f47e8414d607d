"""One run's text answers, row by row: the query, the correct answer, and the answer at each stage."""

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
"""Outcomes of a row, in display order; the last three are for runs that have nothing to compare with."""
WHOLE = {(0, 1): CHANGED[0], (1, 0): CHANGED[1], (0, 0): "still wrong", (1, 1): "still right"}
"""Scores before and after -> outcome."""
WORDS = ("query", "document", "accepted")
"""Text columns of the predictions, in addition to `COLUMNS`."""


class Answer(NamedTuple):
    """The answer at a stage: the text, its score by the headline metric, and the row's other metrics."""

    text: str
    score: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Example:
    """A row of a set.

    Attributes:
        reference: the accepted answers, starting with the one that is trained on.
        outcome: one of `OUTCOMES`.
        answers: by stage, without stages that did not answer this row.
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
        stages: in display order.
        final: the stage that the run is judged by.
        rows: starting with those that changed.
        counts: outcome -> the number of rows of the run that have it, in the order of `OUTCOMES`.
    """

    stages: list[str]
    final: str
    rows: list[Example]
    counts: dict[str, int]

    @property
    def left_out(self) -> int:
        """The number of rows of the run that are not shown."""
        return sum(self.counts.values()) - len(self.rows)


def outcome(before: float | None, after: float) -> str:
    """The outcome of a row with these scores, from 0 (wrong) to 1 (right); `before` is None if there is none."""
    if before is None:
        return {0: "wrong", 1: "right"}.get(after, "in part")
    if (before, after) in WHOLE:
        return WHOLE[before, after]
    return "better" if after > before else "worse" if after < before else "unchanged"


def read_examples(record: Path, metrics: Mapping[str, Any], most: int) -> Examples | None:
    """At most `most` rows of the run in a folder; None if its answers are not text.

    First come rows that changed, then the others; among both, all outcomes and sets are represented.

    Args:
        metrics: its `metrics.json`.

    Raises:
        OSError: the predictions cannot be read.
    """
    names = {name for sets in metrics["stages"].values() for values in sets.values() for name in values} | {"kl", "same_answer"}
    predictions = read_predictions(record, names.union(WORDS))
    if not predictions.of_texts:
        return None
    frame = predictions.table.to_pandas().astype({"stage": str, "set": str})
    measures = [name for name in frame.columns if name in names and name not in COLUMNS]
    frame["again"] = frame.groupby(["stage", "set", "idx"]).cumcount()  # a set may have a row twice
    stages = sorted(frame["stage"].unique(), key=_place)
    tables = {stage: frame[frame["stage"] == stage].set_index(["set", "idx", "again"]) for stage in stages}
    final = next((stage for stage in FINAL_STAGES if stage in tables), stages[-1])
    outcomes = _outcomes(tables, final)
    shown = _chosen(outcomes, most)
    answers = {stage: _answers(table.reindex(shown.index), measures) for stage, table in tables.items()}
    rows = []
    for place, ((name, idx, _), row) in enumerate(tables[final].loc[shown.index].iterrows()):
        of_row = {stage: of_stage[place] for stage, of_stage in answers.items()}
        answered = {stage: answer for stage, answer in of_row.items() if answer is not None}
        words = _text(row.get("document")), _text(row["query"]) or "", _accepted(row)
        rows.append(Example(name, idx, *words, shown.iloc[place], answered))
    counts = Counter(outcomes)
    return Examples(stages, final, rows, {name: counts[name] for name in OUTCOMES if counts[name]})


def _outcomes(tables: Mapping[str, pd.DataFrame], final: str) -> pd.Series:
    """The outcome of each row of the final stage, by set and row."""
    after = tables[final]["score"]
    if "before" not in tables or final == "before":
        return after.map(lambda score: outcome(None, score))
    before = tables["before"]["score"].reindex(after.index)
    pairs = zip(before, after, strict=True)
    return pd.Series([outcome(None if math.isnan(one) else one, other) for one, other in pairs], after.index)


def _place(stage: str) -> tuple[int, str]:
    """Sort key of a stage: a teacher before its student, others in the order of tables."""
    order = ["icl", "teacher", *SELECTION_NAMES]
    name = SELECTIONS.get(stage, stage)
    return (order.index(name) if name in order else len(order)), stage


def _chosen(outcomes: pd.Series, most: int) -> pd.Series:
    """At most `most` of the outcomes (by set and row), preferring changed rows, in display order."""
    frame = pd.DataFrame({"outcome": outcomes, "order": range(len(outcomes))})
    frame["rank"] = frame["outcome"].map(OUTCOMES.index)
    frame["same"] = frame["rank"] >= len(CHANGED)
    frame["turn"] = frame.groupby(["outcome", "set"]).cumcount()
    chosen = frame.sort_values(["same", "turn", "rank", "order"]).head(most)
    return chosen.sort_values(["rank", "order"])["outcome"]


def _answers(part: pd.DataFrame, measures: Iterable[str]) -> list[Answer | None]:
    """The answers of one stage to the rows of a table; None for rows that it did not answer."""
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
