"""The number of queries after which training has cost less than prompting each of them with a context.

Prompting has no cost up front but costs more for each query; training has to be paid for first. Liu et al. 2022 (T-Few,
arXiv:2205.05638, section 4.2) count floating-point operations this way; CPU seconds are counted likewise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from llmft.report.records.collect import Collection
from llmft.report.records.names import GROUP, is_zero_shot, records
from llmft.report.statistics.summary import apart

OTHERS = ("other_rows", "other_precision")
TRAINED = (*GROUP, "context", "weights")
MEASURES = {
    "cpu_s": ("training_cpu_s_mean", "cpu_ms_per_query_mean", 1 / 1000),
    "flops": ("training_flops_mean", "flops_per_query_mean", 1),
    "flops_alone": ("training_flops_alone_mean", "flops_per_query_alone_mean", 1),
}
"""Measure -> the cost up front, the cost per query, and the factor from the unit of the latter to that of the former.

`cpu_s` and `flops` are as in the runs: a context is read once for all queries of a set, which share its cost. `flops_alone` is
T-Few's count: the context is read again for every query."""


def break_even(first: float, prompting: float, trained: float) -> float:
    """The smallest whole number of queries after which training has cost less than prompting; infinity for never.

    Args:
        first: cost before the first query.
        prompting: cost of a query with the context.
        trained: cost of a query with the trained model, in the same unit.

    Returns:
        NaN if a cost is unknown.
    """
    if any(math.isnan(cost) for cost in (first, prompting, trained)):
        return math.nan
    return math.floor(first / (prompting - trained)) + 1.0 if prompting > trained else math.inf


def break_evens(summary: pd.DataFrame, collection: Collection) -> pd.DataFrame:
    """Every trained group of runs compared with each way of prompting for the same task, model and headline metric: with the same
    number of shots, or with a context other than demonstrations.

    A distilled model is compared with its own teacher, others with in-context learning. Queries are those of the in-domain set.

    Returns:
        A row for each pair: the columns of the trained group; `against` (`teacher`, or the setting of the prompting runs),
        `ids`, `ids_prompting`; `score`, `score_prompting`: the headline metric of both; `other_rows`: whether their queries
        were different rows; `precision`, `precision_prompting`, `other_precision`: whether these differ; and for each measure
        `<measure>_first`, `<measure>_prompting`, `<measure>_own` (means over runs), `<measure>_queries` (`break_even` of these;
        NaN for CPU time in different precisions, which is not comparable); and `cpu_s_queries_min`, `cpu_s_queries_max`,
        `cpu_s_told_apart` (`_cpu_range`).
    """
    chosen = summary[(summary["metric"] == summary["headline"]) & (summary["set"] == "in_domain")]
    by_selection = {name: records(rows) for name, rows in chosen.groupby("selection", observed=True)}
    prompting = defaultdict(list)
    for row in by_selection.get("icl", []):
        if not is_zero_shot(row["method"], row["shots"], row["context"]):
            prompting[_cell(row)].append({**row, "against": row["setting"]})
    teachers = {(row["method"], row["setting"]): {**row, "against": "teacher"} for row in by_selection.get("teacher", [])}
    of_runs, rows = _costs_of_runs(collection), []
    for row in by_selection.get("last", []):
        teacher = teachers.get((row["method"], row["setting"]))
        for other in [teacher] if teacher else prompting[_cell(row)]:
            if other["shots"] not in (0, row["shots"]):  # 0: another context
                continue
            rows.append({**{name: row[name] for name in TRAINED}, **_compare(row, other), **_cpu_range(row, other, of_runs)})
    return pd.DataFrame(rows, columns=None if rows else [*TRAINED, "against", "ids", "ids_prompting", *OTHERS])


def _costs_of_runs(collection: Collection) -> dict[tuple[str, str], tuple[float, float]]:
    """Run and selection -> CPU seconds before the first query, and for a query of the in-domain set."""
    first = dict(zip(collection.runs["id"], collection.runs["training_cpu_s"], strict=True))
    scores = collection.headline_scores()
    scores = scores[scores["set"] == "in_domain"]
    rows = zip(scores["id"], scores["selection"], scores["cpu_ms_per_query"], strict=True)
    return {(run, selection): (first[run], each / 1000) for run, selection, each in rows}


def _cpu_range(
    trained: Mapping[str, Any], prompting: Mapping[str, Any], of_runs: Mapping[tuple[str, str], tuple[float, float]]
) -> dict[str, Any]:
    """How much the break-even in CPU time varies: it is the quotient of a cost and a difference of two measured ones, which is
    often smaller than their noise.

    Returns:
        `cpu_s_queries_min` and `cpu_s_queries_max`: of the single runs if the teacher is in the same run, else with the
        difference one standard deviation higher and lower; `cpu_s_told_apart`: whether these agree on which query is cheaper,
        and both groups have several runs: nothing is known about the noise of a single one.
    """
    if trained["precision"] != prompting["precision"]:
        numbers = [math.nan]
    elif prompting["against"] == "teacher":
        both = [(of_runs[run, "last"], of_runs[run, "teacher"]) for run in trained["ids"] if (run, "teacher") in of_runs]
        numbers = [break_even(first, with_context, own) for (first, own), (_, with_context) in both]
    else:
        _, each, unit = MEASURES["cpu_s"]
        sds = (row[each.replace("_mean", "_sd")] for row in (trained, prompting))
        sd = math.hypot(*(0 if math.isnan(sd) else sd for sd in sds))  # a single run has no deviation
        first, own = trained["training_cpu_s_mean"], unit * trained[each]
        numbers = [break_even(first, unit * (prompting[each] + shift), own) for shift in (sd, -sd)]
    known = bool(numbers) and not any(map(math.isnan, numbers))
    low, high = (min(numbers), max(numbers)) if known else (math.nan, math.nan)
    repeated = min(len(trained["ids"]), len(prompting["ids"])) > 1
    return {
        "cpu_s_queries_min": low,
        "cpu_s_queries_max": high,
        "cpu_s_told_apart": known and repeated and math.isinf(low) == math.isinf(high),
    }


def _cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["model"], row["headline"]


def _compare(trained: Mapping[str, Any], prompting: Mapping[str, Any]) -> dict[str, Any]:
    out = {"against": prompting["against"], "pattern_prompting": prompting["pattern"], "differs_prompting": prompting["differs"]}
    other_rows = trained["rows"] != prompting["rows"] or apart(trained["row_digests"], prompting["row_digests"])
    out |= {"ids": trained["ids"], "ids_prompting": prompting["ids"], "other_rows": other_rows}
    out |= {"score": trained["mean"], "score_prompting": prompting["mean"]}
    out |= {"precision": trained["precision"], "precision_prompting": prompting["precision"]}
    out["other_precision"] = trained["precision"] != prompting["precision"]
    for measure, (first, each, unit) in MEASURES.items():
        costs = trained[first], unit * prompting[each], unit * trained[each]
        out |= {f"{measure}_{name}": cost for name, cost in zip(("first", "prompting", "own"), costs, strict=True)}
        out[f"{measure}_queries"] = math.nan if measure == "cpu_s" and out["other_precision"] else break_even(*costs)
    return out
