"""Run records -> one table of runs and one of their scores. Runs that are not whole are listed with the reason, never averaged.

Only `config.json`, `metrics.json` and `cost.json` are read: a folder of thousands of runs takes seconds.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.errors import InputError
from llmft.report.names import METHOD_NAMES, in_order_of
from llmft.report.pool import Workers
from llmft.report.rows import Scores, run_row, score_rows
from llmft.runs.names import DONE

if TYPE_CHECKING:
    import pyarrow as pa

FILES = ("config", "metrics", "cost")
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
            without labels), `pattern` (its name or text), `setting` (hash of everything but the seeds), `differs` (arguments
            that tell settings apart beside the columns before), `seed`, `data_seed`; the costs of the whole run under the
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
    """

    folder: Path
    runs: pd.DataFrame
    scores: pd.DataFrame
    left_out: list[tuple[str, str]] = field(default_factory=list)
    sets: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def logs(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The training logs of some runs, id -> entries; read now. Runs without one (in-context learning) are not in it."""
        found = {}
        for run, record in self._records(ids):
            path = self.folder / record / "train_log.jsonl"
            if path.is_file():
                found[run] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return found

    def predictions(self, run: str, columns: Sequence[str] = ANSWERS) -> pa.Table:
        """Some columns of the predictions of one run; read now, `stage` and `set` as dictionaries.

        Raises:
            OSError: they are not there, or are no such file.
        """
        ((_, record),) = self._records([run])
        return read_predictions(self.folder / record, columns)

    def _records(self, ids: Iterable[str]) -> list[tuple[str, str]]:
        return [(run, self._record_of[run]) for run in ids]

    @cached_property
    def _record_of(self) -> dict[str, str]:
        return dict(zip(self.runs["id"], self.runs["record"], strict=True))


class Unreadable(Exception):
    """A record that is not as it should be; says which file and why."""


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
    for part in (workers or Workers()).in_parts(_read_part, sorted(find_runs(folder)), folder):
        found.extend(part)
    left_out = sorted(found.left_out)
    if not found.rows:
        beside = f" ({len(left_out)} that are not: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InputError(f"{folder}: there is no finished run below this folder{beside}; name the --output_dir of some runs")
    ids = dict(zip(found.sets, _ids(list(found.sets)), strict=True))
    runs = pd.DataFrame([{**row, "id": ids[row["id"]]} for row in _name_differences(found.rows)])
    runs = in_order_of(runs, METHOD_NAMES, "method", ["task", "weights", "model"], ["shots"])
    return Collection(folder, runs, found.scores.frame(ids), left_out, {ids[name]: own for name, own in found.sets.items()})


def _read_part(paths: Sequence[Path], folder: Path) -> _Part:
    part = _Part()
    for path in paths:
        name = str(path.relative_to(folder))
        try:
            record = read_record(path)
            if record is not None:
                row, found = run_row(*record), list(score_rows(*record[1:]))
                part.scores.add(name, found)
                part.rows.append({"id": name, "record": name, **row})
                part.sets[name] = record[1]["sets"]
        except Unreadable as error:
            part.left_out.append((name, str(error)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            part.left_out.append((name, f"its record cannot be understood ({type(error).__name__}: {error})"))
    return part


def read_predictions(record: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of the predictions of the run in a folder, `stage` and `set` as dictionaries.

    Raises:
        OSError: they are not there, or are no such file.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(record / "predictions.parquet", read_dictionary=["stage", "set"]) as file:
            lacking = set(columns) - set(file.schema_arrow.names)
            if lacking:
                raise OSError(f"it has no column {', '.join(sorted(lacking))}")
            return file.read(columns=list(columns), use_threads=False)  # small files: handing over costs more
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def find_runs(folder: Path) -> Iterator[Path]:
    """Folders that hold a run's record, or a part of one; what lies within a run (models, checkpoints) is not looked at."""
    waiting, seen = [folder], {os.path.realpath(folder)}
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as entries:
            found = {entry.name: entry for entry in entries}
        if any(f"{name}.json" in found for name in FILES) or DONE in found:
            yield here
            continue
        for name, entry in found.items():
            if name.startswith(".") or not entry.is_dir():
                continue
            if entry.is_symlink():
                if (target := os.path.realpath(entry.path)) in seen:
                    continue
                seen.add(target)
            waiting.append(here / name)


def read_record(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """`config.json`, `metrics.json` and `cost.json` of a finished run; None where the folder is no run's but a model's.

    Raises:
        Unreadable: the run is not finished, or a file is missing or broken.
    """
    config = _read(path / "config.json")
    if "draws" not in config:
        if (path / DONE).is_file():
            raise Unreadable("config.json has no draws")
        return None
    if not (path / DONE).is_file():
        raise Unreadable("unfinished: there is no DONE; the same command goes on with it")
    return config, _read(path / "metrics.json"), _read(path / "cost.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
        try:
            value = json.loads(_without_eval_rows(text))
        except ValueError:
            value = json.loads(text)
    except FileNotFoundError:
        raise Unreadable(f"{path.name} is missing") from None
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Unreadable(f"{path.name} is broken ({error})") from None
    if not isinstance(value, dict):
        raise Unreadable(f"{path.name} is broken (it holds no object)")
    return value


def _without_eval_rows(text: bytes) -> bytes:
    """A config without the idx of evaluation rows: most of its text, and nothing here reads them.

    A quote within a JSON string has a backslash, so the words found are the key. Where a set's name holds a brace what is left
    is no JSON, and the whole is read.
    """
    start = text.find(b'"eval_rows": {')
    end = text.find(b"}", start)
    return text if start < 0 or end < 0 else text[:start] + b'"eval_rows": {' + text[end:]


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


def _name_differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `differs` in place of `given`: the arguments by which settings differ that task, method, model, shots and
    pattern do not tell apart.

    A kind of context that was asked for is always named: no number of shots tells an instruction from a label.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    keys = [tuple(row[name] for name in ("task", "method", "model", "shots", "pattern")) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        groups.setdefault(key, {})[row["setting"]] = row["given"]
    texts = {}
    for key, settings in groups.items():
        shared = set.intersection(*(set(map(str, given.items())) for given in settings.values()))
        for setting, given in settings.items():
            told = (f"{k}={v}" for k, v in given.items() if k == "context" or str((k, v)) not in shared)
            texts[key, setting] = ", ".join(told)
    return [
        {**{name: value for name, value in row.items() if name != "given"}, "differs": texts[key, row["setting"]]}
        for key, row in zip(keys, rows, strict=True)
    ]
