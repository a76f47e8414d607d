"""What one run's record says, as rows of tables: the run and its costs, and every score with what a query cost."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llmft.report.records.identities import identity
from llmft.report.records.names import DOMAINS, SELECTIONS
from llmft.runs.show import pooled

SEEDS = ("seed", "data_seed")
LABELLED = ("pbft", "vanilla", "gold-label")
"""What methods' names begin with whose training rows have labels: these rows are their shots."""
COUNTS = ("n", "n_asked", "n_shortened")
"""What the record has beside the metrics of a set."""
OF_ROWS = ("score_accuracy", "accuracy", "loss", "kl", "agreement", "retention_change")
"""Metrics that are means over rows, and so can be taken over several sets together."""
PATTERNS = ("pattern_name", "pattern", "student_pattern")
"""Arguments of which the column `pattern` tells one, the last that there is."""
CATEGORIES = ("id", "selection", "stage", "set", "metric")
NUMBERS = (
    "value", "n", "gap_recovered", "tokens_per_query", "cpu_ms_per_query", "flops_per_query", "flops_per_query_alone",
)  # fmt: skip


def run_row(config: Mapping[str, Any], metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `Collection.runs` but for id and record, with `given` as a dict, with `identity` and without `differs`."""
    arguments = {name: value for group in config["arguments"].values() for name, value in group.items()}
    draws, method = config["draws"], config["method"]
    labelled = method.startswith(LABELLED)
    pattern = next((name for name in reversed(PATTERNS) if arguments.get(name)), "pattern")
    seeds = {name: arguments[name] for name in SEEDS}
    student = config.get("student")
    if student and method == "icl":  # in-context learning draws nothing by its seed, and without shots by neither
        seeds |= {name: student[name] for name in (SEEDS if not arguments.get("num_shots") else ("seed",))}
    told = (*SEEDS, pattern, *(("max_train_samples",) if labelled else ()))
    return {
        "task": config["task"] + (f" {arguments['task_variant']}" if arguments.get("task_variant") else ""),
        "method": method,
        "model": config["model"],
        "weights": _weights(metrics, cost),
        "shots": len(draws["train_rows"]) if labelled else sum(map(len, draws["demonstrations"])),
        "queries": 0 if labelled else len(draws["train_rows"]),
        "pattern": arguments.get(pattern),
        "setting": config["setting"],
        "given": {k: v for k, v in config["given"].items() if k not in told},
        **seeds,
        "identity": identity(config, arguments),
        **{
            name: math.nan if v is None else float(v)  # whole numbers may be too large for a column of these
            for name, v in cost["total"].items()
            if v is None or isinstance(v, int | float)
        },
        **{name: float(value) for name, value in _training_costs(metrics, cost).items()},
        **{f"majority_{domain}": _majority(metrics, domain) for domain in DOMAINS},
    }


def _majority(metrics: Mapping[str, Any], domain: str) -> float:
    """Accuracy of always answering the largest class of a domain's only set.

    NaN for several sets: the record has the largest class of each, and they need not be the same.
    """
    sets, rates = metrics["sets"].get(domain, ()), metrics.get("majority", {})
    return float(rates.get(sets[0], math.nan)) if len(sets) == 1 else math.nan


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
        "load_cpu_s": phases.get("load", {}).get("cpu_total_s", 0.0),
        "train_cpu_s": train.get("cpu_total_s", 0.0),
        "teacher_cpu_s": teacher.get("cpu_total_s", 0.0),
        "teacher_saved_cpu_s": saved.get("cpu_s", 0.0),
        "training_cpu_s": train.get("cpu_total_s", 0.0) + teacher.get("cpu_total_s", 0.0) + saved.get("cpu_s", 0.0),
        "evaluation_cpu_s": sum(p["cpu_total_s"] for name, p in phases.items() if name.startswith("eval ")),
        "training_flops": train.get("flops", 0) + flops,
        "training_flops_alone": train.get("flops", 0) + (flops * alone / tokens if tokens else 0),
    }


def score_rows(metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
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
                if not math.isfinite(value):  # a mean that leaves it out would not be of the runs that it names
                    if metric == "score_accuracy":
                        raise ValueError(f"{metric} of {name} at stage {stage} is {value}")
                    continue
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


class Scores:
    """Columns of `Collection.scores` as they grow, a few bytes a cell: there may be millions."""

    def __init__(self) -> None:
        self.codes = {name: array("i") for name in CATEGORIES}
        self.names: dict[str, dict[str, int]] = {name: {} for name in CATEGORIES}
        self.numbers = {name: array("d") for name in NUMBERS}
        self.selected = array("b")

    def add(self, run: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Put down the `score_rows` of one run: all of them, or none where a value is no number."""
        *columns, selected = zip(*rows, strict=True)
        numbers = [array("d", values) for values in columns[len(CATEGORIES) - 1 :]]
        for name, values in zip(CATEGORIES, ([run] * len(selected), *columns), strict=False):
            known = self.names[name]
            self.codes[name].extend([known.setdefault(value, len(known)) for value in values])
        for name, values in zip(NUMBERS, numbers, strict=True):
            self.numbers[name].extend(values)
        self.selected.extend(selected)

    def extend(self, other: Scores) -> None:
        """Put down all that another one holds."""
        for name, codes in self.codes.items():
            known = self.names[name]
            here = [known.setdefault(value, len(known)) for value in other.names[name]]
            codes.extend([here[code] for code in other.codes[name]])
        for name, values in self.numbers.items():
            values.extend(other.numbers[name])
        self.selected.extend(other.selected)

    def frame(self, ids: Mapping[str, str]) -> pd.DataFrame:
        """Those of the runs in `ids` as one table, the runs called by these."""
        names = {column: list(known) for column, known in self.names.items()}
        place = {run: number for number, run in enumerate(ids)}
        runs = np.array([place.get(run, -1) for run in names["id"]])[np.frombuffer(self.codes["id"], dtype=np.intc)]
        codes, names["id"] = {**self.codes, "id": runs}, list(ids.values())
        text = {name: pd.Categorical.from_codes(codes[name], names[name]) for name in CATEGORIES}
        numbers = {name: pd.Series(values, dtype=float) for name, values in self.numbers.items()}
        found = pd.DataFrame({**text, **numbers, "selected_on_evaluation_set": pd.Series(self.selected, dtype=bool)})
        return found if (runs >= 0).all() else found[runs >= 0].reset_index(drop=True)
