"""Run records -> one table of runs and one of their scores. Runs that are not whole are listed with the reason, never averaged.

Only `config.json`, `metrics.json` and `cost.json` are read: a folder of thousands of runs takes seconds.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llmft.errors import InputError
from llmft.report.names import METHOD_NAMES, SELECTIONS, in_order_of
from llmft.runs.names import DONE
from llmft.runs.show import pooled

SEEDS = ("seed", "data_seed")
FILES = ("config", "metrics", "cost")
LABELLED = ("pbft", "vanilla", "gold-label")
"""What methods' names begin with whose training rows have labels: these rows are their shots."""
COUNTS = ("n", "n_asked", "n_shortened")
"""What the record has beside the metrics of a set."""
OF_ROWS = ("score_accuracy", "accuracy", "loss", "kl", "agreement", "retention_change")
"""Metrics that are means over rows, and so can be taken over several sets together."""
PATTERNS = ("pattern_name", "pattern", "student_pattern")
"""Arguments that the column `pattern` tells."""
CATEGORIES = ("id", "selection", "stage", "set", "metric")
NUMBERS = (
    "value", "n", "gap_recovered", "tokens_per_query", "cpu_ms_per_query", "flops_per_query", "flops_per_query_alone",
)  # fmt: skip


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
            record's names and units; `train_cpu_s`, `teacher_cpu_s`, `teacher_saved_cpu_s` (what answers found in the cache
            had cost), their sum `training_cpu_s`; `training_flops` and `training_flops_alone` likewise, the latter with the
            context read again for every query.
        scores: a row for each run, selection, set and metric: `id`, `selection` (`icl`, `before`, `teacher`, `last`,
            `best_in_domain`, `best_out_of_domain`, `last_with_context`), `stage` (the record's name), `set` (`in_domain`,
            `out_of_domain`, `retention`: their rows taken together; and every set by its name), `metric`, `value`, `n` (rows),
            `selected_on_evaluation_set` (whether this very set chose the checkpoint), `gap_recovered`, and what a query costs
            there: `tokens_per_query` (prompt, of the task's own set), `cpu_ms_per_query`, `flops_per_query` (as run: a context
            is read once) and `flops_per_query_alone` (T-Few's count: the context is read for every query).
        left_out: record and reason of every run that is not in the tables.
    """

    folder: Path
    runs: pd.DataFrame
    scores: pd.DataFrame
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def logs(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The training logs of some runs, id -> entries; read now. Runs without one (in-context learning) are not in it."""
        found = {}
        for run, record in self._records(ids):
            path = self.folder / record / "train_log.jsonl"
            if path.is_file():
                found[run] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return found

    def predictions(self, run: str, columns: Sequence[str] = ("stage", "set", "idx", "label", "prediction")) -> pd.DataFrame:
        """Some columns of the predictions of one run; read now.

        Raises:
            OSError: they are not there.
        """
        ((_, record),) = self._records([run])
        return pd.read_parquet(self.folder / record / "predictions.parquet", columns=list(columns))

    def _records(self, ids: Iterable[str]) -> list[tuple[str, str]]:
        return list(self.runs.set_index("id")["record"].loc[list(ids)].items())


class Unreadable(Exception):
    """A record that is not as it should be; says which file and why."""


def collect(folder: Path) -> Collection:
    """Read all run records below `folder`.

    Raises:
        InputError: there is no such folder, or no finished run in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the --output_dir of some runs")
    records, left_out = [], []
    for path in sorted(find_runs(folder)):
        name = str(path.relative_to(folder))
        try:
            record = read_record(path)
        except Unreadable as error:
            left_out.append((name, str(error)))
        else:
            if record is not None:
                records.append((name, *record))
    if not records:
        beside = f" ({len(left_out)} that are not: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InputError(f"{folder}: there is no finished run below this folder{beside}; name the --output_dir of some runs")
    kept, rows, scores = _ids([name for name, *_ in records]), [], _Scores()
    for run, (name, config, metrics, cost) in zip(kept, records, strict=True):
        try:
            row, found = _run_row(config, metrics, cost), list(_score_rows(metrics, cost))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
            left_out.append((name, f"its record is not of this version ({type(error).__name__}: {error})"))
            continue
        rows.append({"id": run, "record": name, **row})
        scores.add(run, found)
    if not rows:
        raise InputError(f"{folder}: {left_out[0][0]}: {left_out[0][1]}; name the --output_dir of runs of this version")
    runs = in_order_of(_name_differences(pd.DataFrame(rows)), METHOD_NAMES, "method", ["task", "weights", "model"], ["shots"])
    return Collection(folder, runs, scores.frame(), sorted(left_out))


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


def _run_row(config: Mapping[str, Any], metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for group in config["arguments"].values() for name, value in group.items()}
    draws, method = config["draws"], config["method"]
    labelled = method.startswith(LABELLED)
    return {
        "task": config["task"] + (f" {arguments['task_variant']}" if arguments.get("task_variant") else ""),
        "method": method,
        "model": config["model"],
        "weights": _weights(metrics, cost),
        "shots": len(draws["train_rows"]) if labelled else sum(map(len, draws["demonstrations"])),
        "queries": 0 if labelled else len(draws["train_rows"]),
        "pattern": next((arguments[name] for name in reversed(PATTERNS) if arguments.get(name)), None),
        "setting": config["setting"],
        "given": {k: v for k, v in config["given"].items() if k not in (*SEEDS, *PATTERNS)},
        **{name: arguments[name] for name in SEEDS},
        **{name: math.nan if v is None else v for name, v in cost["total"].items() if v is None or isinstance(v, int | float)},
        **_training_costs(metrics, cost),
    }


def _weights(metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> float:
    """Weights of the model as it was loaded: of the record, or what one of its forward passes had been counted with."""
    if "model" in metrics.get("weights", {}):
        return metrics["weights"]["model"]
    asked = [p for p in cost["phases"] if p["name"].startswith(("eval icl ", "eval before ")) and p["tokens"]]
    return _weights_of(asked[0]) if asked else math.nan


def _weights_of(work: Mapping[str, Any]) -> float:
    """T-Few's rule the other way round: 2N FLOPs a token (`llmft.cost.flops`)."""
    return work["flops"] / (2 * work["tokens"]) if work["tokens"] else math.nan


def _training_costs(metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, float]:
    """What there was to pay before the first query: the teacher's answers, those found in the cache included, and training."""
    phases = {p["name"]: p for p in cost["phases"]}
    teacher, train = phases.get("teacher", {}), phases.get("train", {})
    saved = cost.get("saved_by_teacher_cache", {})
    saved = saved.get("phases", {"teacher": saved}).get("teacher", {})  # older records tell the sum alone, teacher's scores in it
    flops = teacher.get("flops", 0) + saved.get("flops", 0)
    asked, tokens = (teacher.get(name, 0) + saved.get(name, 0) for name in ("examples", "tokens"))
    alone = metrics.get("tokens_per_query", {}).get("teacher", 0) * asked
    return {
        "train_cpu_s": train.get("cpu_total_s", 0.0),
        "teacher_cpu_s": teacher.get("cpu_total_s", 0.0),
        "teacher_saved_cpu_s": saved.get("cpu_s", 0.0),
        "training_cpu_s": train.get("cpu_total_s", 0.0) + teacher.get("cpu_total_s", 0.0) + saved.get("cpu_s", 0.0),
        "training_flops": train.get("flops", 0) + flops,
        "training_flops_alone": train.get("flops", 0) + (flops * alone / tokens if tokens else 0),
    }


def _score_rows(metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of `Collection.scores` but for the id."""
    stages = dict(metrics["stages"])
    if isinstance(with_context := metrics.get("after_with_context"), dict) and "skipped" not in with_context:
        stages["after_with_context"] = with_context
    work = _evaluation_work(cost)
    for stage, sets in stages.items():
        selection = SELECTIONS[stage]
        tokens = _tokens_per_query(metrics, stage)
        beside = {name: metrics[name][stage] for name in ("kl", "agreement") if stage in metrics.get(name, {})}
        if stage == "after" and "retention_change" in metrics:
            beside["retention_change"] = metrics["retention_change"]
        found = {
            name: {**values, **{metric: own[name] for metric, own in beside.items() if name in own}}
            for name, values in sets.items()
        }
        groups = {group: [name for name in names if name in found] for group, names in metrics["sets"].items()}
        groups = {group: names for group, names in groups.items() if names and len(names) == len(metrics["sets"][group])}
        gaps = metrics.get("gap_recovered", {}) if stage == "after" else {}
        for name, members in [*groups.items(), *((name, [name]) for name in found)]:
            n = sum(found[member]["n"] for member in members)
            costs = _query_costs([work.get((stage, member), {}) for member in members], tokens)
            selected = stage == f"best_{name}" or any(stage == f"best_{g}" and name in names for g, names in groups.items())
            for metric in found[members[0]]:
                if metric in COUNTS or (len(members) > 1 and metric not in OF_ROWS):
                    continue
                value = found[members[0]][metric] if len(members) == 1 else _pooled(found, members, metric)
                if value is None:
                    continue
                if metric == "score_accuracy" and not math.isfinite(value):
                    raise ValueError(f"{metric} of {name} at stage {stage} is {value}")
                gap = gaps.get(name) if metric == "score_accuracy" else None
                yield selection, stage, name, metric, value, n, math.nan if gap is None else gap, tokens, *costs, selected


def _pooled(found: Mapping[str, Mapping[str, Any]], members: Sequence[str], metric: str) -> float | None:
    return None if any(found[member].get(metric) is None for member in members) else pooled(found, members, metric)


def _tokens_per_query(metrics: Mapping[str, Any], stage: str) -> float:
    counts = metrics.get("tokens_per_query", {})
    if stage == "after_with_context":  # what the teacher reads, by a model that may have virtual tokens of its own
        return counts.get("teacher", math.nan)
    return counts.get(stage, counts.get("student", math.nan))


def _evaluation_work(cost: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """Stage and set -> what asking took, answers found in the cache at what they had cost when they were made."""
    work: dict[tuple[str, str], dict[str, float]] = {}
    saved = cost.get("saved_by_teacher_cache", {}).get("phases", {})
    names = {"after with context": "after_with_context"}

    def add(stage: str, name: str, phase: Mapping[str, Any], cpu: str) -> None:
        own = work.setdefault((stage, name), dict.fromkeys(("examples", "tokens", "flops", "cpu_s"), 0))
        for key in ("examples", "tokens", "flops"):
            own[key] += phase[key]
        own["cpu_s"] += phase[cpu]

    found = [(p["name"], p, "cpu_total_s") for p in cost["phases"]] + [(name, p, "cpu_s") for name, p in saved.items()]
    for phase_name, phase, cpu in found:
        for begin in ("icl", "before", "teacher", "after with context", "after", "during training"):
            start = f"eval {begin} "
            if phase_name.startswith(start):
                stage, name = names.get(begin, begin), phase_name[len(start) :]
                best = ("best_in_domain", "best_out_of_domain") if begin in ("after", "during training") else ()
                for one in (stage, *best):  # a best checkpoint was asked during training, or is the last
                    add(one, name, phase, cpu)
                break
    return work


def _query_costs(work: Sequence[Mapping[str, float]], tokens: float) -> tuple[float, float, float]:
    """CPU milliseconds, FLOPs as run, and FLOPs with the whole prompt read, of a query; NaN where nothing was asked."""
    total = {key: sum(one.get(key, 0) for one in work) for key in ("examples", "tokens", "flops", "cpu_s")}
    asked = total["examples"]
    if not asked:
        return math.nan, math.nan, math.nan
    return 1000 * total["cpu_s"] / asked, total["flops"] / asked, 2 * _weights_of(total) * tokens


def _name_differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Add `differs`: the arguments by which settings differ that task, method, model, shots and pattern do not tell apart.

    A kind of context that was asked for is always named: no number of shots tells an instruction from a label.
    """
    differs = pd.Series("", index=runs.index)
    for _, group in runs.groupby(["task", "method", "model", "shots", "pattern"], sort=False, dropna=False):
        settings = group.drop_duplicates("setting").set_index("setting")["given"]
        items = [set(map(str, given.items())) for given in settings]
        shared = set.intersection(*items)
        texts = {
            setting: ", ".join(f"{k}={v}" for k, v in given.items() if k == "context" or str((k, v)) not in shared)
            for setting, given in settings.items()
        }
        differs[group.index] = group["setting"].map(texts)
    place = runs.columns.get_loc("given")
    runs = runs.drop(columns="given")
    runs.insert(place, "differs", differs)
    return runs


class _Scores:
    """Columns of `Collection.scores` as they grow, a few bytes a cell: there may be millions."""

    def __init__(self) -> None:
        self.codes = {name: array("i") for name in CATEGORIES}
        self.names: dict[str, dict[str, int]] = {name: {} for name in CATEGORIES}
        self.numbers = {name: array("d") for name in NUMBERS}
        self.selected = array("b")

    def add(self, run: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for selection, stage, name, metric, *numbers, selected in rows:
            for column, value in zip(CATEGORIES, (run, selection, stage, name, metric), strict=True):
                known = self.names[column]
                self.codes[column].append(known.setdefault(value, len(known)))
            for column, number in zip(NUMBERS, numbers, strict=True):
                self.numbers[column].append(number)
            self.selected.append(selected)

    def frame(self) -> pd.DataFrame:
        text = {name: pd.Categorical.from_codes(codes, list(self.names[name])) for name, codes in self.codes.items()}
        numbers = {name: pd.Series(values, dtype=float) for name, values in self.numbers.items()}
        return pd.DataFrame({**text, **numbers, "selected_on_evaluation_set": pd.Series(self.selected, dtype=bool)})
