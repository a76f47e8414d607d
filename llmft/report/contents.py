"""Which tables the report has, and what is in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from llmft.report.break_even import MEASURES
from llmft.report.collect import Collection
from llmft.report.names import DOMAINS, FINAL, SELECTION_NAMES, method_name
from llmft.report.statistics import GROUP
from llmft.report.tables import NOTHING, Column, Row, Table, number, spread
from llmft.runs.show import SELECTED

ALPHA = 0.05
HEADINGS = {"in_domain": "in-domain", "out_of_domain": "out-of-domain", "retention": "other tasks"}
SIGNIFICANT = f"° p < {ALPHA} (two-sided, not corrected for the number of tests)"


def groups(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict for each group of runs in the order of the summary: the columns it has as a whole, and `cells`: (selection, set,
    metric) -> row of the summary, for the pooled sets."""
    pooled = summary[summary["set"].isin(HEADINGS)]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in pooled.to_dict("records"):
        group = found.setdefault(tuple(row[name] for name in GROUP), {**row, "cells": {}})
        group["cells"][row["selection"], row["set"], row["metric"]] = row
        if len(row["ids"]) > len(group["ids"]):
            group.update(runs=row["runs"], ids=row["ids"])
    return list(found.values())


def score(selection: str | None, domain: str, metric: str = "score_accuracy", digits: int = 3) -> dict[str, Callable[[Row], Any]]:
    """`text` and `value` of a column of scores; of the final selection of each row where none is named."""

    def cell(row: Row) -> dict[str, Any]:
        selections = (selection,) if selection else FINAL
        return next((row["cells"][s, domain, metric] for s in selections if (s, domain, metric) in row["cells"]), {})

    def text(row: Row) -> str:
        found = cell(row)
        star = "*" if found.get("selected_on_evaluation_set") else ""
        return spread(found.get("mean"), found.get("sd"), digits) + star

    return {"text": text, "value": lambda row: cell(row).get("mean", math.nan)}


def final_cell(row: Row) -> dict[str, Any]:
    """The in-domain accuracy that a group is judged by, with the costs of a query."""
    return next(
        (row["cells"][s, "in_domain", "score_accuracy"] for s in FINAL if (s, "in_domain", "score_accuracy") in row["cells"]), {}
    )


def of_query(name: str, digits: int, selection: str | None = None) -> dict[str, Callable[[Row], Any]]:
    """`text` and `value` of a column of what a query costs."""

    def cell(row: Row) -> dict[str, Any]:
        return row["cells"].get((selection, "in_domain", "score_accuracy"), {}) if selection else final_cell(row)

    return {
        "text": lambda row: spread(cell(row).get(f"{name}_mean"), cell(row).get(f"{name}_sd"), digits),
        "value": lambda row: cell(row).get(f"{name}_mean", math.nan),
    }


def of_run(name: str, digits: int, unit: float = 1.0) -> dict[str, Callable[[Row], Any]]:
    """`text` and `value` of a column of what a run costs, `unit` being that of the record."""
    return {
        "text": lambda row: spread(row[f"{name}_mean"] / unit, row[f"{name}_sd"] / unit, digits),
        "value": lambda row: row[f"{name}_mean"],
    }


def extremes(domain: str) -> Callable[[Row], str]:
    """Lowest and highest accuracy of the final selection."""

    def text(row: Row) -> str:
        found = next(
            (row["cells"][s, domain, "score_accuracy"] for s in FINAL if (s, domain, "score_accuracy") in row["cells"]), None
        )
        return NOTHING if found is None or found["runs"] < 2 else f"{found['min']:.3f} to {found['max']:.3f}"

    return text


WHO = (
    Column("task", lambda row: row["task"], left=True),
    Column("model", lambda row: row["model"], left=True),
    Column("shots", lambda row: str(row["shots"]), lambda row: row["shots"], left=True),
    Column("pattern", lambda row: str(row["pattern"]), left=True),
    Column("method", method_name, left=True),
)
RUNS = Column("runs", lambda row: str(row["runs"]), lambda row: row["runs"])
IDS = Column("ids of runs", lambda row: " ".join(row["ids"]), left=True, wide=True)


def results(found: list[dict[str, Any]]) -> Table:
    """Every method's final accuracy and what it cost."""
    columns = (
        *WHO,
        Column("in-domain", **score(None, "in_domain")),
        Column("min to max", extremes("in_domain"), wide=True),
        Column("out-of-domain", **score(None, "out_of_domain")),
        Column("min to max", extremes("out_of_domain"), wide=True),
        Column("tokens/query", **of_query("tokens_per_query", 1)),
        Column("CPU ms/query", **of_query("cpu_ms_per_query", 1)),
        Column("CPU s training", **of_run("training_cpu_s", 1)),
        Column("CPU s run", **of_run("cpu_total_s", 1)),
        Column("user", **of_run("cpu_user_s", 1), wide=True),
        Column("system", **of_run("cpu_system_s", 1), wide=True),
        Column("peak MiB", **of_run("rss_peak_bytes", 0, 2**20)),
        Column("mean MiB", **of_run("rss_mean_bytes", 0, 2**20)),
        RUNS,
        IDS,
    )
    rows = [row for row in found if final_cell(row)]
    note = "Of trained models the last checkpoint. CPU s training holds the teacher's answers, those found in a cache included."
    return Table("results", "Results (mean ± standard deviation over runs)", columns, rows, (note,))


def checkpoints(found: list[dict[str, Any]]) -> Table:
    """The last and the best checkpoints side by side."""
    columns = [*WHO]
    for selection in ("last", "best_in_domain", "best_out_of_domain"):
        for domain in DOMAINS:
            columns.append(Column(f"{SELECTION_NAMES[selection]}: {HEADINGS[domain]}", **score(selection, domain)))
    rows = [row for row in found if any(selection.startswith("best_") for selection, *_ in row["cells"])]
    return Table("checkpoints", "Last checkpoint, and the best on the evaluation sets", (*columns, RUNS, IDS), rows, (SELECTED,))


def distillation(found: list[dict[str, Any]]) -> Table:
    """Teacher, student before, student after."""

    def gap(domain: str) -> dict[str, Callable[[Row], Any]]:
        def value(row: Row) -> float:
            return row["cells"].get(("last", domain, "score_accuracy"), {}).get("gap_recovered", math.nan)

        return {"text": lambda row: number(value(row), 3), "value": value}

    columns = (
        *WHO,
        *(
            Column(f"{name}, {HEADINGS[domain]}", **score(selection, domain))
            for domain in DOMAINS
            for selection, name in (("teacher", "teacher"), ("before", "before"), ("last", "after"))
        ),
        *(Column(f"gap recovered {HEADINGS[domain]}", **gap(domain)) for domain in DOMAINS),
        Column("KL to teacher", **score("last", "in_domain", "kl")),
        Column("agreement", **score("last", "in_domain", "agreement")),
        Column("other tasks before", **score("before", "retention")),
        Column("other tasks after", **score("last", "retention")),
        Column("after, context in front", **score("last_with_context", "in_domain"), wide=True),
        Column("tokens/query teacher", **of_query("tokens_per_query", 1, "teacher")),
        Column("tokens/query student", **of_query("tokens_per_query", 1)),
        RUNS,
        IDS,
    )
    rows = [row for row in found if any(selection == "teacher" for selection, *_ in row["cells"])]
    note = (
        "Gap recovered: (after - before) / (teacher - before) of each run with a gap, then the mean. KL and agreement: in-domain."
    )
    return Table("distillation", "Distillation: teacher, student before and after", columns, rows, (note,))


def _side(row: Row, side: str) -> str:
    own = {name: row[f"{name}_{side}"] for name in ("method", "shots", "differs")}
    pattern = f", {row[f'pattern_{side}']}" if row["pattern_a"] != row["pattern_b"] else ""
    return method_name(own) + pattern


def _difference(domain: str, names: tuple[str, str] = ("difference", "p")) -> dict[str, Any]:
    difference, p = names

    def value(row: Row) -> float:
        return row["tests"].get(domain, {}).get(difference, math.nan)

    def chance(row: Row) -> float:
        return row["tests"].get(domain, {}).get(p, math.nan)

    def text(row: Row) -> str:
        if pd.isna(value(row)):
            return NOTHING
        tail = "" if pd.isna(chance(row)) else f" (p {_p(chance(row))})" + ("°" if chance(row) < ALPHA else "")
        return f"{value(row):+.3f}{tail}"

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
        Column("method", lambda row: _side(row, "b"), left=True),
        Column("less", lambda row: _side(row, "a"), left=True),
        *(Column(HEADINGS[domain], **_difference(domain)) for domain in DOMAINS),
        Column("runs", lambda row: f"{row['runs_b']}, {row['runs_a']}"),
    )
    rows = _by_pair(tests)
    notes = ("Difference of mean accuracies, Welch's t-test over runs.", SIGNIFICANT)
    return Table("differences", "Differences between methods", columns, rows, notes)


def _by_pair(tests: pd.DataFrame) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in tests.to_dict("records"):
        pair = found.setdefault(
            (row["task"], row["shots"], row["selection"], row["setting_a"], row["setting_b"]), {**row, "tests": {}}
        )
        pair["tests"][row["set"]] = row
    return list(found.values())


def over_sizes(tests: pd.DataFrame) -> list[Table]:
    """A matrix for each task, number of shots, way of prompting, trained method and domain: models trained x models prompted."""
    keys = ["task", "shots", "pattern_a", "differs_a", "method_b", "pattern_b", "differs_b", "selection", "set"]
    found = []
    for place, (key, own) in enumerate(tests.groupby(keys, sort=False, dropna=False)):
        task, shots, *_, selection, domain = key
        first = own.iloc[0].to_dict()
        prompted = list(own.sort_values("weights_a", kind="stable")["model_a"].unique())
        rows: dict[str, dict[str, Any]] = {}
        for test in own.sort_values("weights_b", kind="stable").to_dict("records"):
            row = rows.setdefault(test["model_b"], {"model": test["model_b"], "tests": {}})
            row["tests"][test["model_a"]] = test
        columns = [Column("trained \\ prompted", lambda row: row["model"], left=True)]
        columns += [Column(model, **_difference(model)) for model in prompted]
        title = f"{task}, {shots} shots, {HEADINGS[domain]}: {_side(first, 'b')} ({SELECTION_NAMES[selection]}) less {_side(first, 'a')}"
        notes = ("Difference of mean accuracies, Welch's t-test over runs.", SIGNIFICANT)
        found.append(Table(f"sizes_{place + 1}", title, tuple(columns), list(rows.values()), notes))
    return found


def paired(tests: pd.DataFrame) -> Table:
    """McNemar's tests of every pair of methods, counted over their pairs of runs."""
    pairs = tests.groupby(["task", "shots", "setting_a", "setting_b", "set"], sort=False)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for (*key, domain), own in pairs:
        row = rows.setdefault(tuple(key), {**own.iloc[0].to_dict(), "tests": {}})
        p, b = own["p"] < ALPHA, own["only_b"] > own["only_a"]
        row["tests"][domain] = {"pairs": len(own), "b": int((p & b).sum()), "a": int((p & ~b).sum())}

    def count(domain: str) -> dict[str, Callable[[Row], Any]]:
        def text(row: Row) -> str:
            found = row["tests"].get(domain)
            return NOTHING if found is None else f"{found['b']} better, {found['a']} worse of {found['pairs']}"

        return {"text": text, "value": lambda row: row["tests"].get(domain, {}).get("b", math.nan)}

    columns = (
        Column("task", lambda row: row["task"], left=True),
        Column("model", lambda row: row["model_a"], left=True),
        Column("shots", lambda row: str(row["shots"]), lambda row: row["shots"], left=True),
        Column("method", lambda row: _side(row, "b"), left=True),
        Column("than", lambda row: _side(row, "a"), left=True),
        *(Column(HEADINGS[domain], **count(domain)) for domain in DOMAINS),
    )
    note = f"Pairs of runs with the same data seed and evaluation rows whose exact McNemar test says p < {ALPHA}; all are in mcnemar.csv."
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
        Column("prompting by", lambda row: "its teacher" if row["against"] == "teacher" else _against(row), left=True),
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
        "CPU time and FLOPs as run: the context is read once for all queries. Context read again: T-Few's count (Liu et al. 2022).",
    )
    return Table("break_even", "Break-even", columns, found.to_dict("records"), notes)


def _against(row: Row) -> str:
    differs = f" ({row['differs_prompting']})" if row["differs_prompting"] else ""
    return f"in-context, {row['pattern_prompting']}{differs}"


def left_out(collection: Collection) -> Table:
    """Runs that are in no other table."""
    columns = (
        Column("run", lambda row: row["record"], left=True),
        Column("not counted because", lambda row: row["reason"], left=True),
    )
    rows = [{"record": record, "reason": reason} for record, reason in collection.left_out]
    return Table("left_out", "Runs that are not counted", columns, rows)
