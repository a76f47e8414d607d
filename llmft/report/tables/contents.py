"""The tables of the report, and their contents."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import pandas as pd

from llmft.report.records.names import (
    DOMAINS,
    EVALUATED,
    FINAL,
    GROUP,
    HEADINGS,
    OF_NO_SET,
    headline_name,
    metric_name,
    records,
    selection_name,
    shown_method,
)
from llmft.report.tables.published import NONE, SELECTIONS, our_metrics, published_numbers
from llmft.report.tables.table import KIB, MIB, NOTHING, Column, ReportTable, TableRow, rounded, spread
from llmft.runs.summary import SELECTED, judged_by

Cell = Callable[[TableRow], Mapping[str, Any]]
"""Finds a row of the summary in a table row."""


def result_rows(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict for each group of runs in the order of the summary: the columns of the whole group, and `cells`: (selection, set,
    metric) -> row of the summary, for the pooled sets and the metrics of no set."""
    pooled = summary[summary["set"].isin([*HEADINGS, *OF_NO_SET.values()])]
    by_name: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in records(pooled):
        group = by_name.setdefault(tuple(row[name] for name in GROUP), {**row, "cells": {}})
        group["cells"][row["selection"], row["set"], row["metric"]] = row
        if len(row["ids"]) > len(group["ids"]):
            group.update(runs=row["runs"], ids=row["ids"])
    return list(by_name.values())


def cell(selection: str | None = None, domain: str = "in_domain", metric: str | None = None) -> Cell:
    """A cell of a group; selection and metric default to those that it is judged by."""

    def find(row: TableRow) -> Mapping[str, Any]:
        name = metric or judged_by(domain, row["headline"])
        keys = ((one, domain, name) for one in ([selection] if selection else FINAL))
        return next((row["cells"][key] for key in keys if key in row["cells"]), {})

    return find


def of_no_set(selection: str, metric: str) -> Cell:
    """A cell of a metric of `OF_NO_SET`."""
    return cell(selection, OF_NO_SET[metric], metric)


def measured(name: str, of: Cell | None, what: str = "", digits: int = 3, unit: float = 1.0, wide: bool = False) -> Column:
    """A column of means and deviations: of scores, or of a cost `what`, which is divided by `unit`. `of` is None for the costs of
    a run, which are in the row itself."""
    of = of or (lambda row: row)
    mean, sd = (f"{what}_{how}" if what else how for how in ("mean", "sd"))

    def text(row: TableRow) -> str:
        star = "*" if not what and of(row).get("selected_on_evaluation_set") else ""
        return spread(of(row).get(mean, math.nan) / unit, of(row).get(sd, math.nan) / unit, digits) + star

    return Column(name, text, lambda row: of(row).get(mean, math.nan), wide=wide)


def column_of(name: str, of: Cell, key: str, wide: bool = False) -> Column:
    """A column of single numbers."""
    return Column(name, lambda row: rounded(of(row).get(key), 3), lambda row: of(row).get(key, math.nan), wide=wide)


def _gap(name: str, of: Cell) -> Column:
    """A column of recovered gaps: mean and deviation, and how many runs had a gap if not all did."""

    def text(row: TableRow) -> str:
        gap, runs, of_runs = (of(row).get(key, math.nan) for key in ("gap_recovered", "gap_recovered_runs", "runs"))
        fewer = f" ({runs} of {of_runs} runs)" if 0 < runs < of_runs else ""
        return spread(gap, of(row).get("gap_recovered_sd", math.nan), 3) + fewer

    return Column(name, text, lambda row: of(row).get("gap_recovered", math.nan))


def of_domain(domain: str) -> tuple[Column, Column]:
    """Final scores, and their minimum and maximum."""
    of = cell(domain=domain)

    def extremes(row: TableRow) -> str:
        return f"{of(row)['min']:.3f} to {of(row)['max']:.3f}" if of(row).get("runs", 0) > 1 else NOTHING

    return measured(HEADINGS[domain], of), Column("min to max", extremes, wide=True)


def rows_of(domain: str) -> Column:
    """The rows that the scores of a domain are over: how many, of which sets."""
    return Column(f"rows {HEADINGS[domain]}", lambda row: cell(domain=domain)(row).get("rows", NOTHING), left=True, wide=True)


WHO = (
    Column("task", lambda row: row["task"], left=True),
    Column("model", lambda row: row["model"], left=True),
    Column("shots", lambda row: str(row["shots"]), lambda row: row["shots"], left=True),
    Column("pattern", lambda row: row["pattern"] if isinstance(row["pattern"], str) else NOTHING, left=True),
    Column("method", shown_method, left=True),
)


SCORED = (*WHO[:-1], Column("metric", headline_name, left=True), WHO[-1])
"""Columns that identify a row of scores."""
RUNS = Column("runs", lambda row: str(row["runs"]), lambda row: row["runs"])
IDS = Column("ids of runs", lambda row: "; ".join(row["ids"]), left=True, wide=True)
MEMORY = tuple(measured(f"{how} MiB", None, f"rss_{how}_bytes", 0, MIB) for how in ("peak", "mean"))


PRECISIONS = "Precision: that of evaluation; CPU times in different precisions are not comparable."


def precision(row: TableRow) -> str:
    """The precision that a group was evaluated in."""
    return cell()(row).get("precision", NOTHING)


def results(by_group: list[dict[str, Any]], shared: Sequence[str] = ()) -> ReportTable:
    """Every method's final scores and costs. `shared` has sentences about what all settings have in common."""
    columns = (
        *SCORED,
        *(column for domain in EVALUATED for column in of_domain(domain)),
        measured("tokens/query", cell(), "tokens_per_query", 1),
        measured("KV KiB/query", cell(), "kv_bytes_per_query", 0, KIB, wide=True),
        Column("precision", precision, left=True),
        measured("CPU ms/query", cell(), "cpu_ms_per_query", 1),
        measured("CPU s training", None, "training_cpu_s", 1),
        measured("CPU s run", None, "cpu_total_s", 1),
        *(measured(name, None, f"cpu_{name}_s", 1, wide=True) for name in ("user", "system")),
        *MEMORY,
        *(column_of(f"largest class {HEADINGS[domain]}", cell(domain=domain), "majority", wide=True) for domain in EVALUATED),
        *map(rows_of, EVALUATED),
        RUNS,
        IDS,
    )
    rows = [row for row in by_group if cell()(row)]
    note = "Trained models: the last checkpoint. CPU s training includes the teacher's answers, even those found in a cache."
    notes = (note, PRECISIONS) if len({*map(precision, rows)}) > 1 else (note,)
    return ReportTable("results", "Results (mean ± standard deviation over runs)", columns, rows, (*notes, *shared))


def checkpoints(by_group: list[dict[str, Any]]) -> ReportTable:
    """The last and the best checkpoints side by side."""
    columns = (
        measured(f"{selection_name(selection)}: {HEADINGS[domain]}", cell(selection, domain))
        for selection in ("last", "best_in_domain", "best_out_of_domain")
        for domain in EVALUATED
    )
    rows = [row for row in by_group if any(selection.startswith("best_") for selection, *_ in row["cells"])]
    title = "Last checkpoint, and the best on the evaluation sets"
    return ReportTable("checkpoints", title, (*SCORED, *columns, RUNS, IDS), rows, (SELECTED,))


def distillation(by_group: list[dict[str, Any]], texts: Container[str]) -> ReportTable:
    """Teacher, student before, student after. `texts` has the ids of runs with text answers."""
    rows = [row for row in by_group if any(selection == "teacher" for selection, *_ in row["cells"])]
    cells = [key for row in rows for key in row["cells"] if key[1] == "in_domain"]
    of_teachers = {metric for selection, _, metric in cells if selection == "teacher"}  # the others compare a student with it
    against = dict.fromkeys(metric for selection, _, metric in cells if selection == "last" and metric not in of_teachers)
    columns = (
        *SCORED,
        *(
            measured(f"{name}{tail}", cell(selection, domain))
            for domain, tail in zip(EVALUATED, ("", " out", " test"), strict=True)
            for selection, name in (("teacher", "teacher"), ("before", "before"), ("last", "after"))
        ),
        *(_gap(f"gap{tail}", cell("last", domain)) for domain, tail in zip(EVALUATED, ("", " out", " test"), strict=True)),
        *(measured(metric_name(metric), cell("last", metric=metric)) for metric in against),
        measured("other tasks before", cell("before", "retention")),
        measured("other tasks after", cell("last", "retention")),
        measured("off-context KL", of_no_set("last", "off_context_kl")),
        measured("with the context", of_no_set("teacher", "off_context_kl"), wide=True),
        measured("contamination", of_no_set("last", "contamination"), wide=True),
        measured("abstention before", of_no_set("before", "abstention"), wide=True),
        measured("abstention after", of_no_set("last", "abstention"), wide=True),
        measured("after, with context", cell("last_with_context"), wide=True),
        measured("tokens/query teacher", cell("teacher"), "tokens_per_query", 1, wide=True),
        measured("tokens/query student", cell(), "tokens_per_query", 1, wide=True),
        measured("KV KiB/query teacher", cell("teacher"), "kv_bytes_per_query", 0, KIB, wide=True),
        measured("KV KiB/query student", cell(), "kv_bytes_per_query", 0, KIB, wide=True),
        RUNS,
        IDS,
    )
    unit = "nats; for text answers nats per token" if any(run in texts for row in rows for run in row["ids"]) else "nats"
    notes = (
        f"In-domain; out: out-of-domain. KL ({unit}) of the student after from the teacher, and how often both answer the same.",
        "Gap: the share recovered, (after - before) / (teacher - before), over the runs whose teacher was better than before.",
        "Off-context KL: from the original model, on prompts unrelated to the context, in nats per token.",
    )
    return ReportTable("distillation", "Distillation: teacher, student before and after", columns, rows, notes)


def words(summary: pd.DataFrame, texts: Container[str]) -> ReportTable:
    """Every metric of every set, for groups whose runs have text answers: those with an id in `texts`."""
    of_texts = summary["ids"].map(lambda ids: any(run in texts for run in ids))
    chosen = summary[of_texts & ~summary["set"].isin(HEADINGS)]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in records(chosen):
        key = (*(row[name] for name in GROUP), row["selection"], row["set"])
        rows.setdefault(key, {**row, "metrics": {}})["metrics"][row["metric"]] = row
    columns = (
        *WHO,
        Column("selection", lambda row: selection_name(row["selection"]), left=True, stays=True),
        Column("set", lambda row: row["set"], left=True, stays=True),
        *(
            measured(metric_name(name), lambda row, name=name: row["metrics"].get(name, {}))
            for name in dict.fromkeys(chosen["metric"])
        ),
        Column("rows", lambda row: rounded(row["n"], 0), lambda row: row["n"]),
        RUNS,
        IDS,
    )
    note = (
        "NLL of the correct answers and KL from the teacher: nats per token. Agreement: share of answers that are the teacher's."
    )
    return ReportTable("words", "Text answers: all metrics by set", columns, list(rows.values()), (note,))


def costs(by_group: list[dict[str, Any]]) -> ReportTable:
    """The CPU time of a run by phase."""
    names = {
        "load": "load_cpu_s", "teacher": "teacher_cpu_s", "found in cache": "teacher_saved_cpu_s", "training": "train_cpu_s",
        "evaluation": "evaluation_cpu_s", "run": "cpu_total_s", "user": "cpu_user_s", "system": "cpu_system_s", "wall": "wall_s",
    }  # fmt: skip
    columns = (*WHO, *(measured(name, None, what, 1) for name, what in names.items()), *MEMORY, RUNS, IDS)
    note = "CPU seconds of all processes; found in cache: the original cost of the teacher's cached answers, not part of the run."
    return ReportTable("costs", "Costs by phase", columns, by_group, (note,))


def published(summary: pd.DataFrame) -> ReportTable:
    """Our scores next to those published for the same task, model, method, shots and pattern: the summary of `add_published`.
    Rows without a published number are shown if a method is judged by them and the task has some."""

    def number(row: TableRow) -> str:
        digitised = "†" if row["published_provenance"] == "digitised" else ""
        return spread(row["published_mean"], row["published_sd"], 3) + digitised if row["published_note"] != NONE else NONE

    def noted(what: str) -> Callable[[TableRow], str]:
        return lambda row: NOTHING if row["published_note"] == NONE else row[f"published_{what}"] or NOTHING

    columns = (
        *WHO,
        Column("selection", lambda row: selection_name(row["selection"]), left=True, stays=True),
        Column("set", lambda row: HEADINGS[row["set"]], left=True, stays=True),
        Column("metric", lambda row: our_metrics()[row["metric"]], left=True),
        Column("ours", lambda row: spread(row["mean"], row["sd"], 3), lambda row: row["mean"]),
        Column("published", number, lambda row: row["published_mean"]),
        Column("how it was read", noted("provenance"), left=True, stays=True),
        Column("what differs", noted("note"), left=True, stays=True),
        Column("source", noted("source"), left=True, wide=True),
        RUNS,
        IDS,
    )
    ours = summary[
        summary["set"].isin(DOMAINS)
        & summary["metric"].isin(our_metrics())
        & summary["selection"].isin(SELECTIONS)
        & summary["task"].isin(published_numbers()["task"])
    ]
    judged = ours["selection"].isin(FINAL) & (ours["metric"] == ours["headline"])
    rows = records(ours[ours["published_mean"].notna() | judged])
    digitised = "† digitised: read off the markers of a published figure; printed: in a table or text."
    return ReportTable("published", "Published numbers and ours", columns, rows, (digitised,))


def with_reasons(name: str, title: str, heading: str, runs: Sequence[tuple[str, str]]) -> ReportTable:
    """Runs that are missing, and why: `left_out` everywhere, `unread` only in comparisons row by row."""
    columns = (
        Column("run", lambda row: row["run"], left=True, stays=True),
        Column(heading, lambda row: row["reason"], left=True, stays=True),
    )
    return ReportTable(name, title, columns, [{"run": run, "reason": reason} for run, reason in runs])
