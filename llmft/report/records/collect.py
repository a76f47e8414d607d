"""Run records -> one table of runs and one of their scores. Runs that are not whole are listed with the reason, never averaged.

`config.json`, `metrics.json` and `cost.json` of every run are read: a folder of thousands takes seconds. Predictions and training
logs are read when they are asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llmft.errors import InputError
from llmft.report.records.find import UNUSABLE, Unreadable, find_runs, path_text, read_record, unusable
from llmft.report.records.flatten import SCORE_COLUMNS, TEXTS, run_row, score_rows
from llmft.report.records.frames import in_order_of
from llmft.report.records.identities import with_distinct_names
from llmft.report.records.names import METHOD_NAMES
from llmft.report.records.pool import Workers
from llmft.report.records.settings import name_differences, repetitions
from llmft.report.records.versions import OLD_ROW_COLUMNS, predictions_of

if TYPE_CHECKING:
    import pyarrow as pa

ROW_COLUMNS = ("stage", "set", "idx", "target", "prediction", "score")
"""Columns of the predictions that every run has."""


@dataclass(frozen=True)
class Collection:
    """All runs below a folder.

    Attributes:
        folder: where they lie.
        runs: a row for each finished run: `id` (its folder's name, longer only where that is not unique), `record` (path below
            `folder`), `task` (with its variant), `method`, `model`, `weights` (of the model as it was loaded, a number),
            `shots` (labelled examples: demonstrations, or training rows where they have labels), `queries` (training rows
            without labels), `pattern` (its name or text), `headline` (the metric that the run is judged by) and
            `higher_is_better` of it, `setting` (hash of everything but the seeds), `non_default` (all arguments
            that are not at their default and have no column), `differs` (those of them that tell settings of the task and
            method apart), `seed`, `data_seed`; the costs of the whole run under the
            record's names and units; `load_cpu_s`, `evaluation_cpu_s` (all sets and stages); `train_cpu_s`, `teacher_cpu_s`,
            `teacher_saved_cpu_s` (what answers found in the cache had cost), and the sum of these three, `training_cpu_s`;
            `training_flops` and `training_flops_alone` likewise, the latter with the context read again for every query.
        scores: a row for each run, selection, set and metric: `id`, `selection` (`icl`, `before`, `teacher`, `last`,
            `best_in_domain`, `best_out_of_domain`, `last_with_context`), `stage` (its name in the record), `set` (`in_domain`,
            `out_of_domain`, `retention`: their rows taken together; and every set by its name), `metric`, `value`, `n` (rows),
            `selected_on_evaluation_set` (whether this very set chose the checkpoint), `gap_recovered`, and what a query costs
            there: `tokens_per_query` (prompt, of the task's own set), `cpu_ms_per_query`, `flops_per_query` (as run: a context
            is read once) and `flops_per_query_alone` (T-Few's count: the context is read for every query).
        left_out: record and reason of every run that is not in the tables.
        sets: id -> group (`in_domain`, ...) -> names of its sets.
        places: id -> the run's folder.
        shared: sentences about arguments that all settings of a method share, which `differs` leaves out.
        unreadable_logs: id -> what could not be read of its training log, of the logs that were asked for.
    """

    folder: Path
    runs: pd.DataFrame
    scores: pd.DataFrame
    left_out: list[tuple[str, str]] = field(default_factory=list)
    sets: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    unreadable_logs: dict[str, str] = field(default_factory=dict)

    def headline_scores(self) -> pd.DataFrame:
        """The scores by the headline of their run."""
        chosen = np.zeros(len(self.scores), bool)
        for headline, ids in self.runs.groupby("headline")["id"]:
            chosen |= ((self.scores["metric"] == headline) & self.scores["id"].isin(ids)).to_numpy()
        return self.scores[chosen].astype(dict.fromkeys(("id", "selection", "set", "metric"), str))

    def logs(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The training logs of some runs, id -> entries with a step; read now. Runs without one (in-context learning) are not in
        it; what cannot be read is left out and noted in `unreadable_logs`."""
        logs = {}
        for run in ids:
            path = self.places[run] / "train_log.jsonl"
            if path.is_file():
                logs[run], reason = _log(path)
                if reason:
                    self.unreadable_logs[run] = reason
        return logs


@dataclass
class _Part:
    """Some of the runs; they are called by their paths below the folder."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: list[pd.DataFrame] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    sets: dict[str, dict[str, list[str]]] = field(default_factory=dict)


def collect(folder: Path, workers: Workers | None = None) -> Collection:
    """Read all run records below `folder`.

    Args:
        workers: who read them; None for this process.

    Raises:
        InputError: there is no such folder, or no finished run in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the --output_dir of some runs")
    paths, closed = find_runs(folder)
    at = {path_text(path.relative_to(folder)): path for path in paths}
    parts = list((workers or Workers()).in_parts(_read_part, list(at.items())))
    rows, again = repetitions(with_distinct_names([row for part in parts for row in part.rows]))
    left_out = [*again, *(pair for part in parts for pair in part.left_out)]
    left_out = sorted([*left_out, *((path_text(path.relative_to(folder)), reason) for path, reason in closed)])
    if not rows:
        others = f" ({len(left_out)} that are not: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InputError(f"{folder}: there is no finished run below this folder{others}; name the --output_dir of some runs")
    records = [row["record"] for row in rows]
    ids = dict(zip(records, _ids(records), strict=True))
    named, shared = name_differences(rows)
    runs = pd.DataFrame([{"id": ids[row["record"]], **row} for row in named]).drop(columns="identity")
    runs = in_order_of(runs, METHOD_NAMES, "method", ["task", "weights", "model"], ["shots"])
    scores = pd.concat([scores for part in parts for scores in part.scores], ignore_index=True)
    scores.insert(0, "id", scores.pop("record").astype(object).map(ids))
    scores = scores.dropna(subset="id").reset_index(drop=True)
    scores = scores.astype(dict.fromkeys(("id", *TEXTS[1:]), "category"))
    sets = {ids[name]: names for part in parts for name, names in part.sets.items() if name in ids}
    return Collection(folder, runs, scores, left_out, sets, {ids[name]: at[name] for name in records}, shared)


def _read_part(records: Sequence[tuple[str, Path]]) -> _Part:
    part, scores = _Part(), []
    for name, path in records:
        try:
            record = read_record(path)
            if record is not None:
                row, rows = run_row(*record), list(score_rows(*record[1:]))
                part.rows.append({"record": name, **row})
                part.sets[name] = record[1]["sets"]
                scores += [(name, *values) for values in rows]
        except Unreadable as error:
            part.left_out.append((name, str(error)))
        except UNUSABLE as error:
            part.left_out.append((name, unusable(error)))
    frame = pd.DataFrame(scores, columns=SCORE_COLUMNS)
    part.scores.append(frame.astype(dict.fromkeys(TEXTS, "category")))  # a few bytes a cell: there may be millions
    return part


def _log(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The entries of a training log that have a step, and what is wrong with it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return [], f"cannot be read ({error.strerror or error})"
    entries, broken = [], 0
    for line in filter(str.strip, lines):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("loss", 0), int | float):
            broken += 1
        elif isinstance(entry.get("step"), int | float):
            entries.append(entry)
    return entries, f"{broken} lines cannot be understood" if broken else ""


def read_predictions(record: Path) -> tuple[pa.Table, bool]:
    """`ROW_COLUMNS` of the predictions of the run in a folder, `stage` and `set` as dictionaries; and whether targets are labels.

    Raises:
        OSError: they are not there, are no such file, or have empty cells.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    path = record / "predictions.parquet"
    try:
        source = path if path_text(path) == str(path) else pa.BufferReader(path.read_bytes())  # arrow takes UTF-8 names alone
        with ParquetFile(source, read_dictionary=["stage", "set"]) as file:
            stored = file.schema_arrow.names
            columns = OLD_ROW_COLUMNS if "label" in stored else ROW_COLUMNS
            if lacking := set(columns) - set(stored):
                raise OSError(f"it has no column {', '.join(sorted(lacking))}")
            table = predictions_of(file.read(columns=list(columns), use_threads=False))  # small files: handing over costs more
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    if empty := [name for name in table.column_names if table[name].null_count]:
        raise OSError(f"it has empty cells in {', '.join(empty)}")
    return table.select(ROW_COLUMNS), not {"label", "label_logprobs"}.isdisjoint(stored)


def _ids(records: Sequence[str]) -> list[str]:
    """Names of the folders, with as many of those around them as it takes to be unique."""
    parts = [Path(record).parts for record in records]
    ids = [folders[-1] if folders else "." for folders in parts]
    length = 1
    while len(set(ids)) < len(ids):
        length += 1
        counts = Counter(ids)
        ids = ["/".join(folders[-length:]) if counts[name] > 1 else name for name, folders in zip(ids, parts, strict=True)]
    return ids
