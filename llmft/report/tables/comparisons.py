"""The tables of tests and of break-even: each row has two methods."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from llmft.report.records.names import (
    EVALUATED,
    HEADINGS,
    OTHER_PRECISION,
    OTHER_PRECISION_NOTE,
    OTHER_ROWS,
    OTHER_ROWS_NOTE,
    headline_name,
    metric_name,
    records,
    selection_name,
    shown_method,
)
from llmft.report.tables.contents import WHO
from llmft.report.tables.table import NOTHING, Column, ReportTable, TableRow, rounded

ALPHA = 0.05
WELCH = "Difference of mean scores, Welch's t-test over runs."
SIGNIFICANT = f"° p < {ALPHA} (two-sided, not corrected for the number of tests)"
TASK, _, SHOTS, *_ = WHO


def _pattern(row: TableRow, side: str) -> str:
    pattern = row[f"pattern_{side}"]
    return pattern if isinstance(pattern, str) else NOTHING


def _shared_pattern(row: TableRow) -> str:
    one, other = _pattern(row, "a"), _pattern(row, "b")
    return one if one == other else NOTHING


WHAT = (
    TASK,
    Column("model", lambda row: row["model_a"], left=True),
    SHOTS,
    Column("pattern", _shared_pattern, left=True),
    Column("metric", headline_name, left=True),
)
"""The columns that both sides of a row share."""


def side_name(row: TableRow, side: str) -> str:
    """The name of a method in a test, with its pattern if the other's differs."""
    method = {name: row[f"{name}_{side}"] for name in ("method", "shots", "differs", "context")}
    pattern = f", {_pattern(row, side)}" if _pattern(row, "a") != _pattern(row, "b") else ""
    return shown_method(method) + pattern


def _sides(between: str) -> tuple[Column, Column]:
    names = (("method", "b"), (between, "a"))
    first, second = (Column(name, lambda row, s=side: side_name(row, s), left=True, stays=True) for name, side in names)
    return first, second


def _difference(name: str, key: str) -> Column:
    """The column for one of a row's tests, by its key."""

    def of(row: TableRow, what: str) -> float:
        return row["tests"].get(key, {}).get(what, math.nan)

    def text(row: TableRow) -> str:
        difference, p = of(row, "difference"), of(row, "p")
        if pd.isna(difference):
            return NOTHING
        shown = "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".", 1)
        tail = "" if pd.isna(p) else f" (p {shown})" + ("°" if p < ALPHA else "")
        return f"{difference:+.3f}{tail}{_marks(row['tests'][key])}"

    def mark(row: TableRow) -> str:
        if not of(row, "p") < ALPHA:
            return ""
        return "better" if _better(row["tests"][key]) else "worse"

    return Column(name, text, lambda row: of(row, "difference"), mark)


def _better(test: TableRow) -> bool:
    """Whether the second of two methods did better than the first."""
    return (test["difference"] > 0) == test["higher_is_better"]


def differences(tests: pd.DataFrame) -> ReportTable:
    """Welch's t-test of every pair of methods."""
    columns = (
        *WHAT,
        Column("checkpoint", lambda row: selection_name(row["selection"]), left=True),
        *_sides("minus"),
        *(_difference(HEADINGS[domain], domain) for domain in EVALUATED),
        Column("runs", lambda row: f"{row['runs_b']}, {row['runs_a']}"),
    )
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for test in records(tests):
        key = tuple(test[name] for name in ("task", "shots", "selection", "setting_a", "setting_b"))
        rows.setdefault(key, {**test, "tests": {}})["tests"][test["set"]] = test
    notes = (WELCH, SIGNIFICANT, *_legend(tests))
    return ReportTable("differences", "Differences between methods", columns, list(rows.values()), notes)


MARKS = {"other_rows": (OTHER_ROWS, OTHER_ROWS_NOTE), "other_precision": (OTHER_PRECISION, OTHER_PRECISION_NOTE)}
"""Column of a pair that is true if its sides were evaluated differently -> the sign for it, and its legend."""


def _marks(pair: TableRow) -> str:
    return "".join(f" {sign}" for name, (sign, _) in MARKS.items() if pair[name])


def _legend(pairs: pd.DataFrame) -> tuple[str, ...]:
    """The legends of the signs that the pairs have."""
    return tuple(note for name, (_, note) in MARKS.items() if pairs[name].any())


def over_sizes(tests: pd.DataFrame) -> list[ReportTable]:
    """A matrix for each task, number of shots, way of prompting, trained method and domain: models trained x models prompted.
    One with a single model is left out: its only test is among the differences."""
    keys = ["task", "headline", "shots", "pattern_a", "differs_a", "method_b", "pattern_b", "differs_b", "selection", "set"]
    groups = [group for _, group in tests.groupby(keys, sort=False, dropna=False)]
    matrices = [group for group in groups if len({*group["model_a"], *group["model_b"]}) > 1]
    several_metrics = tests["headline"].nunique() > 1
    several_patterns = len({_pattern(test, side) for test in records(tests) for side in "ab"}) > 1
    return [_matrix(place, matrix, several_metrics, several_patterns) for place, matrix in enumerate(matrices, 1)]


def _matrix(place: int, tests: pd.DataFrame, several_metrics: bool, several_patterns: bool) -> ReportTable:
    rows: dict[str, dict[str, Any]] = {}
    tests = tests.sort_values(["weights_b", "weights_a"], kind="stable")
    for test in records(tests):
        row = rows.setdefault(test["model_b"], {"model": test["model_b"], "tests": {}})
        row["tests"][test["model_a"]] = first = test
    columns = [Column("trained \\ prompted", lambda row: row["model"], left=True, stays=True)]
    columns += [_difference(model, model) for model in tests["model_a"].unique()]
    trained, prompting = f"{side_name(first, 'b')} ({selection_name(first['selection'])})", side_name(first, "a")
    pattern = f", {_shared_pattern(first)}" if several_patterns and _shared_pattern(first) != NOTHING else ""
    metric = f", {metric_name(first['headline'])}" if several_metrics else ""
    where = f"{first['task']}, {first['shots']} shots{pattern}, {HEADINGS[first['set']]}{metric}"
    title = f"{where}: {trained} minus {prompting}"
    notes = (WELCH, SIGNIFICANT, *_legend(tests))
    return ReportTable(f"sizes-{place}", title, tuple(columns), list(rows.values()), notes)


def paired(tests: pd.DataFrame) -> ReportTable:
    """Counts of the paired tests of every pair of methods over their pairs of runs."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for test in records(tests):
        row = rows.setdefault((test["task"], test["shots"], test["setting_a"], test["setting_b"]), {**test, "tests": {}})
        counts = row["tests"].setdefault(test["set"], {"pairs": 0, "better": 0, "worse": 0})
        counts["pairs"] += 1
        if test["p"] < ALPHA:
            counts["better" if _better(test) else "worse"] += 1

    def count(domain: str) -> Column:
        def text(row: TableRow) -> str:
            counts = row["tests"].get(domain)
            return NOTHING if counts is None else "{better} better, {worse} worse of {pairs}".format(**counts)

        return Column(HEADINGS[domain], text, lambda row: row["tests"].get(domain, {}).get("better", math.nan))

    columns = (*WHAT, *_sides("than"), *map(count, EVALUATED))
    names = {"McNemar": "McNemar's exact test", "Wilcoxon": "Wilcoxon's signed-rank test"}
    used = " and, for scores between 0 and 1, ".join(names[name] for name in names if (tests["test"] == name).any())
    note = (
        f"Pairs of runs with the same data seed and the same rows, with p < {ALPHA} ({used}, two-sided); all are in paired.csv."
    )
    return ReportTable("paired", "Row by row: paired tests", columns, list(rows.values()), (note,))


def cpu_break_even(row: TableRow) -> str:
    """The number of queries after which training has cost less CPU time, from smallest to largest, to three digits."""
    low, high = (_queries(row[f"cpu_s_queries_{end}"], digits=3) for end in ("min", "max"))
    numbers = low if low == high else f"{low} to {high}"
    if row["cpu_s_told_apart"] or numbers == NOTHING:
        return numbers
    single = 1 in (len(row["ids"]), len(row["ids_prompting"]))
    return numbers + (" (one run)" if single else " (not told apart)")


def _queries(number: float, digits: int | None = None) -> str:
    if pd.isna(number):
        return NOTHING
    return "never" if math.isinf(number) else f"{float(f'{number:.{digits}g}') if digits else number:,.0f}"


def break_even_table(pairs: pd.DataFrame) -> ReportTable:
    """The numbers of queries after which training has cost less than prompting."""

    def flops(name: str, key: str) -> Column:
        return Column(name, lambda row: _queries(row[key]), lambda row: row[key])

    def cost(name: str, key: str, unit: float, digits: int, wide: bool = True) -> Column:
        return Column(name, lambda row: rounded(unit * row[key], digits), lambda row: row[key], wide=wide)

    def against(row: TableRow) -> str:
        differs = f" ({row['differs_prompting']})" if row["differs_prompting"] else ""
        name = "its teacher" if row["against"] == "teacher" else f"in-context, {row['pattern_prompting']}{differs}"
        return name + _marks(row)

    columns = (
        *WHO,
        Column("prompting by", against, left=True, stays=True),
        Column("CPU time", cpu_break_even, lambda row: row["cpu_s_queries"]),
        flops("FLOPs", "flops_queries"),
        flops("FLOPs, context read again", "flops_alone_queries"),
        cost("CPU s first", "cpu_s_first", 1, 1, wide=False),
        cost("CPU ms/query prompting", "cpu_s_prompting", 1000, 2),
        cost("CPU ms/query own", "cpu_s_own", 1000, 2),
        Column("runs", lambda row: f"{len(row['ids'])}, {len(row['ids_prompting'])}"),
    )
    notes = (
        "Number of queries after which training has cost less than prompting with the context; never: queries are not cheaper.",
        "CPU time varies: smallest to largest over runs with their teacher, or one standard deviation more and less; not told "
        "apart: these do not agree on which query is cheaper; one run: of one of the two, so nothing is known about its noise.",
        "CPU time and FLOPs as run: the context is read once for all queries. Context read again: T-Few's count.",
        *_legend(pairs),
    )
    return ReportTable("break_even", "Break-even", columns, records(pairs), notes)
