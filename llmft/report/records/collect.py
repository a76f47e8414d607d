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

import pandas as pd

from llmft.errors import InputError
from llmft.report.records.find import Unreadable, find_runs, read_record, shown
from llmft.report.records.flatten import Scores, run_row, score_rows
from llmft.report.records.frames import in_order_of
from llmft.report.records.identities import told_apart
from llmft.report.records.names import METHOD_NAMES
from llmft.report.records.pool import Workers
from llmft.report.records.settings import name_differences, repetitions

if TYPE_CHECKING:
    import pyarrow as pa

ANSWERS = ("stage", "set", "idx", "label", "prediction")
"""Columns of the predictions that say what was answered."""


@dataclass(frozen=True)
class Collection:
    """All runs below a folder.

    Attributes:
        folder: where they lie.
        runs: a row for each finished run: `id` (its folder's name, longer only where that is not unique), `record` (path below
            `folder`), `task` (with its variant), `method`, `model`, `weights` (of the model as it was loaded, a number),
            `shots` (labelled examples: demonstrations, or training rows where they have labels), `queries` (training rows
            without labels), `pattern` (its name or text), `setting` (hash of everything but the seeds), `given` (all arguments
            that are not at their default and no column tells), `differs` (those of them that tell settings of the task and
            method apart), `seed`, `data_seed`; the costs of the whole run under the
            record's names and units; `load_cpu_s`, `evaluation_cpu_s` (all sets and stages); `train_cpu_s`, `teacher_cpu_s`,
            `teacher_saved_cpu_s` (what answers found in the cache had cost), and the sum of these three, `training_cpu_s`;
            `training_flops` and `training_flops_alone` likewise, the latter with the context read again for every query.
        scores: a row for each run, selection, set and metric: `id`, `selection` (`icl`, `before`, `teacher`, `last`,
            `best_in_domain`, `best_out_of_domain`, `last_with_context`), `stage` (the record's name), `set` (`in_domain`,
            `out_of_domain`, `retention`: their rows taken together; and every set by its name), `metric`, `value`, `n` (rows),
            `selected_on_evaluation_set` (whether this very set chose the checkpoint), `gap_recovered`, and what a query costs
            there: `tokens_per_query` (prompt, of the task's own set), `cpu_ms_per_query`, `flops_per_query` (as run: a context
            is read once) and `flops_per_query_alone` (T-Few's count: the context is read for every query).
        left_out: record and reason of every run that is not in the tables.
        sets: id -> group (`in_domain`, ...) -> names of its sets.
        places: id -> the run's folder.
        shared: sentences about arguments that all settings of a method share, which `differs` leaves out.
        spoilt_logs: id -> what could not be read of its training log, of the logs that were asked for.
    """

    folder: Path
    runs: pd.DataFrame
    scores: pd.DataFrame
    left_out: list[tuple[str, str]] = field(default_factory=list)
    sets: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    spoilt_logs: dict[str, str] = field(default_factory=dict)

    def logs(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The training logs of some runs, id -> entries with a step; read now. Runs without one (in-context learning) are not in
        it; what cannot be read is left out and told in `spoilt_logs`."""
        found = {}
        for run in ids:
            path = self.places[run] / "train_log.jsonl"
            if path.is_file():
                found[run], broken = _log(path)
                if broken:
                    self.spoilt_logs[run] = broken
        return found

    def predictions(self, run: str, columns: Sequence[str] = ANSWERS) -> pa.Table:
        """Some columns of the predictions of one run; read now, `stage` and `set` as dictionaries.

        Raises:
            OSError: they are not there, or are no such file.
        """
        return read_predictions(self.places[run], columns)


@dataclass
class _Part:
    """What some of the runs say; they are called by their paths below the folder."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    sets: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    scores: Scores = field(default_factory=Scores)

    def extend(self, other: _Part) -> None:
        self.rows += other.rows
        self.left_out += other.left_out
        self.sets |= other.sets
        self.scores.extend(other.scores)


def collect(folder: Path, workers: Workers | None = None) -> Collection:
    """Read all run records below `folder`.

    Args:
        workers: who read them; None for this process.

    Raises:
        InputError: there is no such folder, or no finished run in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the --output_dir of some runs")
    found = _Part()
    paths, closed = find_runs(folder)
    for part in (workers or Workers()).in_parts(_read_part, paths, folder):
        found.extend(part)
    rows, again = repetitions(told_apart(found.rows))
    left_out = sorted([*found.left_out, *again, *((shown(path.relative_to(folder)), reason) for path, reason in closed)])
    if not rows:
        beside = f" ({len(left_out)} that are not: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InputError(f"{folder}: there is no finished run below this folder{beside}; name the --output_dir of some runs")
    records = [row["record"] for row in rows]
    ids = dict(zip(records, _ids(records), strict=True))
    named, shared = name_differences(rows)
    runs = pd.DataFrame([{"id": ids[row["record"]], **row} for row in named]).drop(columns="identity")
    runs = in_order_of(runs, METHOD_NAMES, "method", ["task", "weights", "model"], ["shots"])
    at = {shown(path.relative_to(folder)): path for path in paths}
    places, sets = ({ids[name]: of[name] for name in records} for of in (at, found.sets))
    return Collection(folder, runs, found.scores.frame(ids), left_out, sets, places, shared)


def _read_part(paths: Sequence[Path], folder: Path) -> _Part:
    part = _Part()
    for path in paths:
        name = shown(path.relative_to(folder))
        try:
            record = read_record(path)
            if record is not None:
                row, found = run_row(*record), list(score_rows(*record[1:]))
                part.scores.add(name, found)
                part.rows.append({"record": name, **row})
                part.sets[name] = record[1]["sets"]
        except Unreadable as error:
            part.left_out.append((name, str(error)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            part.left_out.append((name, f"its record cannot be understood ({type(error).__name__}: {error})"))
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


def read_predictions(record: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of the predictions of the run in a folder, `stage` and `set` as dictionaries.

    Raises:
        OSError: they are not there, or are no such file.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    path = record / "predictions.parquet"
    try:
        source = path if shown(path) == str(path) else pa.BufferReader(path.read_bytes())  # arrow takes UTF-8 names alone
        with ParquetFile(source, read_dictionary=["stage", "set"]) as file:
            lacking = set(columns) - set(file.schema_arrow.names)
            if lacking:
                raise OSError(f"it has no column {', '.join(sorted(lacking))}")
            return file.read(columns=list(columns), use_threads=False)  # small files: handing over costs more
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def _ids(records: Sequence[str]) -> list[str]:
    """Names of the folders, with as many of those around them as it takes to be unique."""
    parts = [Path(record).parts for record in records]
    ids = [own[-1] if own else "." for own in parts]
    length = 1
    while len(set(ids)) < len(ids):
        length += 1
        twice = {name for name, count in Counter(ids).items() if count > 1}
        ids = ["/".join(own[-length:]) if name in twice else name for name, own in zip(ids, parts, strict=True)]
    return ids
