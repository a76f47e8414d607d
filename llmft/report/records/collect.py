"""Run records -> one table of runs and one of their scores. Incomplete runs are listed with the reason, never averaged.

All files of every run are read, except the training logs, which are read on request.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmft.errors import InputError
from llmft.report.records.find import UNUSABLE, Unreadable, find_runs, path_text, read_record, unusable
from llmft.report.records.flatten import SCORE_COLUMNS, precision_of, run_row, score_rows
from llmft.report.records.identities import with_distinct_names
from llmft.report.records.names import METHOD_NAMES, in_order_of
from llmft.report.records.predictions import (
    TOKENS,
    RowScores,
    RowWeights,
    cannot_be_read,
    read_predictions,
    row_scores,
    row_weights,
)
from llmft.report.records.settings import name_differences, repetitions, with_shots_of_settings
from llmft.runs.summary import arguments_of


@dataclass(frozen=True)
class Collection:
    """All runs under a folder.

    Attributes:
        folder: the folder.
        runs: a row for each finished run: `id` (its folder's name, longer only if that is not unique), `record` (path under
            `folder`), `task` (with its variant), `method`, `model`, `weights` (their number in the model as loaded),
            `shots` (labelled examples: demonstrations, or training rows if they have labels), `queries` (training rows
            without labels, or documents), `pattern` (its name or text, or `chat`), `headline` (the metric that the run is judged
            by) and its `higher_is_better`, `setting` (hash of everything except the seeds), `context` (what comes before a query;
            "" for nothing, and for demonstrations), `on_document` (whether it was trained on documents), `non_default` (all
            arguments that differ from their default and have no column), `differs` (those of them that distinguish settings of
            the task and method), `seed`, `data_seed`; the costs of the whole run under the record's names and units;
            `load_cpu_s`, `evaluation_cpu_s` (all sets and stages); `train_cpu_s`, `teacher_cpu_s`, `teacher_saved_cpu_s` (the
            original cost of answers found in the cache), and the sum of these three, `training_cpu_s`;
            `training_flops` and `training_flops_alone` likewise, the latter with the context read again for every query.
        scores: a row for each run, selection, set and metric: `id`, `selection` (`icl`, `before`, `teacher`, `last`,
            `best_in_domain`, `best_out_of_domain`, `last_with_context`), `stage` (its name in the record), `set` (`in_domain`,
            `out_of_domain`, `test`, `retention`: pooled rows; and every set by its name), `metric`, `value`, `n` (rows),
            `selected_on_evaluation_set` (whether the checkpoint was selected on this set), `gap_recovered`, `precision` (of the
            evaluation), and the costs of a query: `tokens_per_query` (prompt, of the task's own set), `kv_bytes_per_query`
            (their keys and values, if in the record), `cpu_ms_per_query`, `flops_per_query` (as run: a context is read once) and
            `flops_per_query_alone` (T-Few's count: the context is read for every query).
        left_out: record and reason of every run that is not in the tables.
        unread: id and reason of every run whose predictions could not be read.
        row_scores: id and domain -> scores of the final stage row by row.
        texts: ids of the runs with text answers.
        sets: id -> group (`in_domain`, ...) -> names of its sets.
        places: id -> the run's folder.
        shared: sentences about arguments that all settings of a method share, which `differs` omits.
        unreadable_logs: id -> what could not be read of its training log, for the logs that were requested.
    """

    folder: Path
    runs: pd.DataFrame
    scores: pd.DataFrame
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    row_scores: dict[tuple[str, str], RowScores] = field(default_factory=dict)
    texts: frozenset[str] = frozenset()
    sets: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    unreadable_logs: dict[str, str] = field(default_factory=dict)

    def headline_scores(self) -> pd.DataFrame:
        """The scores in the headline metric of their run."""
        chosen = np.zeros(len(self.scores), bool)
        for headline, ids in self.runs.groupby("headline")["id"]:
            chosen |= ((self.scores["metric"] == headline) & self.scores["id"].isin(ids)).to_numpy()
        return self.scores[chosen].astype(dict.fromkeys(("id", "selection", "set", "metric", "precision"), str))

    def logs(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The training logs of some runs, id -> entries with a step; read now. Runs without one (in-context learning) are
        omitted; what cannot be read is skipped and noted in `unreadable_logs`."""
        logs = {}
        for run in ids:
            path = self.places[run] / "train_log.jsonl"
            if path.is_file():
                logs[run], reason = _log(path)
                if reason:
                    self.unreadable_logs[run] = reason
        return logs


def collect(folder: Path) -> Collection:
    """Read all run records under `folder`.

    Raises:
        InputError: there is no such folder, or it has no finished runs.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the --output_dir of some runs")
    read, left_out = _read_below(folder)
    rows, again = repetitions(with_distinct_names([one.row for one in read.values()]))
    left_out = sorted([*left_out, *again])
    if not rows:
        others = f" ({len(left_out)} others, the first being {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InputError(f"{folder}: there is no finished run under this folder{others}; name the --output_dir of some runs")
    records = [row["record"] for row in rows]
    ids = dict(zip(records, _ids(records), strict=True))
    named, shared = name_differences(with_shots_of_settings(rows))
    runs = pd.DataFrame([{"id": ids[row["record"]], **row} for row in named]).drop(columns="identity")
    runs = in_order_of(runs, METHOD_NAMES, "method", ["task", "weights", "model"], ["shots"])
    counted = {run: read[record] for run, record in zip(runs["id"], runs["record"], strict=True)}
    scores = [(ids[name], *row) for name, one in read.items() if name in ids for row in one.scores]
    categories = dict.fromkeys(("id", "selection", "stage", "set", "metric", "precision"), "category")
    return Collection(
        folder,
        runs,
        pd.DataFrame(scores, columns=["id", *SCORE_COLUMNS]).astype(categories),
        left_out,
        [(run, one.unread) for run, one in counted.items() if one.unread],
        {(run, domain): of_domain for run, one in counted.items() for domain, of_domain in one.row_scores.items()},
        frozenset(run for run, one in counted.items() if one.of_texts),
        {run: one.sets for run, one in counted.items()},
        {run: one.path for run, one in counted.items()},
        shared,
    )


def _read_below(folder: Path) -> tuple[dict[str, _Read], list[tuple[str, str]]]:
    """The runs by their paths under the folder, and those that cannot be read, with the reason."""
    paths, closed = find_runs(folder)
    left_out = [(path_text(path.relative_to(folder)), reason) for path, reason in closed]
    read: dict[str, _Read] = {}
    for path in paths:
        name = path_text(path.relative_to(folder))
        try:
            if (record := read_record(path)) is not None:
                read[name] = _Read(path, name, *record)
        except Unreadable as error:
            left_out.append((name, str(error)))
        except UNUSABLE as error:
            left_out.append((name, unusable(error)))
    return read, left_out


class _Read:
    """The data read for one run.

    Attributes:
        row: a row of `Collection.runs`, whose `record` is `name`. Old records, and those of several pooled sets, may lack the
            accuracy of always answering the largest class, which is then computed from targets that are labels.
        of_texts: whether its answers are text, according to its predictions.
        unread: why there are no `row_scores`.
    """

    def __init__(
        self, path: Path, name: str, config: Mapping[str, Any], metrics: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        self.path, self.sets, self.unread = path, metrics["sets"], ""
        self.row = {"record": name, **run_row(config, metrics, cost)}
        self.row_scores: dict[str, RowScores] = {}
        self.of_texts, weights = False, RowWeights()
        try:
            predictions = read_predictions(path, TOKENS.values())
            weights, self.row_scores = row_weights(predictions), row_scores(predictions, self.sets)
            self.of_texts = predictions.of_texts
        except (OSError, *UNUSABLE) as error:
            self.unread = cannot_be_read(error)
        cartridge = bool(arguments_of(config).get("use_cartridge"))
        precisions = {stage: precision_of(config, stage) for stage in metrics["stages"]}
        self.scores = list(score_rows(metrics, cost, weights, cartridge=cartridge, precisions=precisions))
        for domain, of_domain in self.row_scores.items():
            if of_domain.confusion is not None and math.isnan(self.row[f"majority_{domain}"]):
                self.row[f"majority_{domain}"] = of_domain.confusion.sum(axis=1).max() / of_domain.confusion.sum()


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


def _ids(records: Sequence[str]) -> list[str]:
    """Names of the folders, with as many parent folders as needed to be unique."""
    parts = [Path(record).parts for record in records]
    ids = [folders[-1] if folders else "." for folders in parts]
    length = 1
    while len(set(ids)) < len(ids):
        length += 1
        counts = Counter(ids)
        ids = ["/".join(folders[-length:]) if counts[name] > 1 else name for name, folders in zip(ids, parts, strict=True)]
    return ids
