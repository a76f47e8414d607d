"""The tables of tests and of break-even: two methods in a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from llmft.report.records.frames import records
from llmft.report.records.names import DOMAINS, OTHER_ROWS, OTHER_ROWS_NOTE, SELECTION_NAMES, method_name
from llmft.report.statistics.break_even import MEASURES
from llmft.report.tables.contents import HEADINGS, WHO
from llmft.report.tables.table import NOTHING, Column, Row, Table, number

ALPHA = 0.05
WELCH = "Difference of mean accuracies, Welch's t-test over runs."
SIGNIFICANT = f"° p < {ALPHA} (two-sided, not corrected for the number of tests)"


def side_name(row: Row, side: str) -> str:
    """What a method of a test is called, with its pattern where the other one's differs."""
    own = {name: row[f"{name}_{side}"] for name in ("method", "shots", "differs")}
    pattern = f", {row[f'pattern_{side}']}" if row["pattern_a"] != row["pattern_b"] else ""
    return method_name(own) + pattern


def _difference(domain: str) -> dict[str, Any]:
    def value(row: Row) -> float:
        return row["tests"].get(domain, {}).get("difference", math.nan)

    def chance(row: Row) -> float:
        return row["tests"].get(domain, {}).get("p", math.nan)

    def text(row: Row) -> str:
        if pd.isna(value(row)):
            return NOTHING
        tail = "" if pd.isna(chance(row)) else f" (p {_p(chance(row))})" + ("°" if chance(row) < ALPHA else "")
        other = f" {OTHER_ROWS}" if row["tests"][domain]["other_rows"] else ""
        return f"{value(row):+.3f}{tail}{other}"

    def mark(row: Row) -> str:
        return "" if not chance(row) < ALPHA else "better" if value(row) > 0 else "worse"

    return {"text": text, "value": value, "mark": mark}


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".", 1)


def differences(tests: pd.DataFrame) -> Table:
    """Welch's t-test of every pair of methods."""
    columns = (
        Column("task", lambda row: row["task"], left=True),
        Column("model", lambda row: row["model_a"], left=True),
        Column("shots", lambda row: str(row["shots"]), lambda row: row["shots"], left=True),
        Column("checkpoint", lambda row: SELECTION_NAMES[row["selection"]], left=True),
        Column("method", lambda row: side_name(row, "b"), left=True, stays=True),
        Column("less that of", lambda row: side_name(row, "a"), left=True, stays=True),
        *(Column(HEADINGS[domain], **_difference(domain)) for domain in DOMAINS),
        Column("runs", lambda row: f"{row['runs_b']}, {row['runs_a']}"),
    )
    rows = _by_pair(tests)
    return Table("differences", "Differences between methods", columns, rows, (WELCH, SIGNIFICANT, *_unlike(tests["other_rows"])))


def _unlike(other_rows: Iterable[bool]) -> tuple[str, ...]:
    """The legend of the sign at pairs that were evaluated on other rows, where there are any."""
    return (OTHER_ROWS_NOTE,) if any(other_rows) else ()


def _by_pair(tests: pd.DataFrame) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in records(tests):
        pair = found.setdefault(
            (row["task"], row["shots"], row["selection"], row["setting_a"], row["setting_b"]), {**row, "tests": {}}
        )
        pair["tests"][row["set"]] = row
    return list(found.values())


def over_sizes(tests: pd.DataFrame) -> list[Table]:
    """A matrix for each task, number of shots, way of prompting, trained method and domain: models trained x models prompted."""
    keys = ("task", "shots", "pattern_a", "differs_a", "method_b", "pattern_b", "differs_b", "selection", "set")
    found: dict[tuple[Any, ...], list[Row]] = {}
    for test in sorted(records(tests), key=lambda test: (test["weights_b"], test["weights_a"])):
        found.setdefault(tuple(test[key] for key in keys), []).append(test)
    order = {key: place for place, key in enumerate(dict.fromkeys(zip(*(tests[key].tolist() for key in keys), strict=True)))}
    return [_matrix(place + 1, found[key]) for place, key in enumerate(sorted(found, key=order.__getitem__))]


def _matrix(place: int, tests: list[Row]) -> Table:
    first, rows = tests[0], {}
    for test in tests:
        row = rows.setdefault(test["model_b"], {"model": test["model_b"], "tests": {}})
        row["tests"][test["model_a"]] = test
    columns = [Column("trained \\ prompted", lambda row: row["model"], left=True, stays=True)]
    columns += [Column(model, **_difference(model)) for model in dict.fromkeys(test["model_a"] for test in tests)]
    trained, prompting = f"{side_name(first, 'b')} ({SELECTION_NAMES[first['selection']]})", side_name(first, "a")
    title = f"{first['task']}, {first['shots']} shots, {HEADINGS[first['set']]}: {trained} less {prompting}"
    notes = (WELCH, SIGNIFICANT, *_unlike(test["other_rows"] for test in tests))
    return Table(f"sizes-{place}", title, tuple(columns), list(rows.values()), notes)


def paired(tests: pd.DataFrame) -> Table:
    """McNemar's tests of every pair of methods, counted over their pairs of runs."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for test in records(tests):
        row = rows.setdefault((test["task"], test["shots"], test["setting_a"], test["setting_b"]), {**test, "tests": {}})
        counts = row["tests"].setdefault(test["set"], {"pairs": 0, "better": 0, "worse": 0})
        counts["pairs"] += 1
        if test["p"] < ALPHA:
            counts["better" if test["only_b"] > test["only_a"] else "worse"] += 1

    def count(domain: str) -> dict[str, Callable[[Row], Any]]:
        def text(row: Row) -> str:
            found = row["tests"].get(domain)
            return NOTHING if found is None else "{better} better, {worse} worse of {pairs}".format(**found)

        return {"text": text, "value": lambda row: row["tests"].get(domain, {}).get("better", math.nan)}

    columns = (
        Column("task", lambda row: row["task"], left=True),
        Column("model", lambda row: row["model_a"], left=True),
        Column("shots", lambda row: str(row["shots"]), lambda row: row["shots"], left=True),
        Column("method", lambda row: side_name(row, "b"), left=True, stays=True),
        Column("than", lambda row: side_name(row, "a"), left=True, stays=True),
        *(Column(HEADINGS[domain], **count(domain)) for domain in DOMAINS),
    )
    note = f"Pairs of runs of one data seed and the same rows with p < {ALPHA} (exact, two-sided); all are in mcnemar.csv."
    return Table("paired", "Row by row: McNemar's test", columns, list(rows.values()), (note,))


def queries(value: float) -> str:
    """A number of queries until the break-even."""
    if pd.isna(value):
        return NOTHING
    return "never" if math.isinf(value) else f"{value:,.0f}"


def break_even_table(found: pd.DataFrame) -> Table:
    """Queries after which training has cost less than prompting."""
    names = {"cpu_s": "CPU time", "flops": "FLOPs", "flops_alone": "FLOPs, context read again"}
    columns = (
        *WHO,
        Column("prompting by", _against, left=True, stays=True),
        *(
            Column(names[m], lambda row, m=m: queries(row[f"{m}_queries"]), lambda row, m=m: row[f"{m}_queries"])
            for m in MEASURES
        ),
        Column("CPU s first", lambda row: number(row["cpu_s_first"], 1), lambda row: row["cpu_s_first"]),
        Column(
            "CPU ms/query prompting",
            lambda row: number(1000 * row["cpu_s_prompting"], 2),
            lambda row: row["cpu_s_prompting"],
            wide=True,
        ),
        Column("CPU ms/query own", lambda row: number(1000 * row["cpu_s_own"], 2), lambda row: row["cpu_s_own"], wide=True),
    )
    notes = (
        "Queries after which training has cost less than prompting with the context; never: a query is not cheaper.",
        "CPU time and FLOPs as run: the context is read once for all queries. Context read again: as T-Few counts.",
        *_unlike(found["other_rows"]),
    )
    return Table("break_even", "Break-even", columns, records(found), notes)


def _against(row: Row) -> str:
    if row["against"] == "teacher":
        return "its teacher"
    differs = f" ({row['differs_prompting']})" if row["differs_prompting"] else ""
    return f"in-context, {row['pattern_prompting']}{differs}" + (f" {OTHER_ROWS}" if row["other_rows"] else "")
