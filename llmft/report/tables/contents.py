"""Which tables the report has, and what is in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from llmft.report.records.collect import Collection
from llmft.report.records.frames import records
from llmft.report.records.names import DOMAINS, FINAL, GROUP, SELECTION_NAMES, method_name
from llmft.report.tables.published import METRICS, NONE, SELECTIONS
from llmft.report.tables.published import published as baselines
from llmft.report.tables.table import NOTHING, Column, Row, Table, number, spread
from llmft.runs.show import SELECTED

HEADINGS = {"in_domain": "in-domain", "out_of_domain": "out-of-domain", "retention": "other tasks"}


def groups(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict for each group of runs in the order of the summary: the columns it has as a whole, and `cells`: (selection, set,
    metric) -> row of the summary, for the pooled sets."""
    pooled = summary[summary["set"].isin(HEADINGS)]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in records(pooled):
        group = found.setdefault(tuple(row[name] for name in GROUP), {**row, "cells": {}})
        group["cells"][row["selection"], row["set"], row["metric"]] = row
        if len(row["ids"]) > len(group["ids"]):
            group.update(runs=row["runs"], ids=row["ids"])
    return list(found.values())


def final_cell(row: Row, domain: str = "in_domain", metric: str = "score_accuracy") -> dict[str, Any]:
    """What a group is judged by in a domain, with the costs of a query."""
    return next((row["cells"][s, domain, metric] for s in FINAL if (s, domain, metric) in row["cells"]), {})


def score(selection: str | None, domain: str, metric: str = "score_accuracy", digits: int = 3) -> dict[str, Callable[[Row], Any]]:
    """`text` and `value` of a column of scores; of the final selection of each row where none is named."""

    def cell(row: Row) -> dict[str, Any]:
        return row["cells"].get((selection, domain, metric), {}) if selection else final_cell(row, domain, metric)

    def text(row: Row) -> str:
        found = cell(row)
        star = "*" if found.get("selected_on_evaluation_set") else ""
        return spread(found.get("mean"), found.get("sd"), digits) + star

    return {"text": text, "value": lambda row: cell(row).get("mean", math.nan)}


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
        "text": lambda row: spread(*(row.get(f"{name}_{how}", math.nan) / unit for how in ("mean", "sd")), digits),
        "value": lambda row: row.get(f"{name}_mean", math.nan),
    }


def extremes(domain: str) -> Callable[[Row], str]:
    """Lowest and highest accuracy of the final selection."""

    def text(row: Row) -> str:
        found = final_cell(row, domain)
        return f"{found['min']:.3f} to {found['max']:.3f}" if found.get("runs", 0) > 1 else NOTHING

    return text


def rows_asked(domain: str) -> Column:
    """How many rows of which sets the accuracies of a domain are of."""
    return Column(f"rows {HEADINGS[domain]}", lambda row: final_cell(row, domain).get("rows", NOTHING), left=True, wide=True)


def largest_class(domain: str) -> Column:
    """What always answering the largest class would get on the same rows."""

    def value(row: Row) -> float:
        return final_cell(row, domain).get("majority", math.nan)

    return Column(f"largest class {HEADINGS[domain]}", lambda row: number(value(row), 3), value, wide=True)


WHO = (
    Column("task", lambda row: row["task"], left=True),
    Column("model", lambda row: row["model"], left=True),
    Column("shots", lambda row: str(row["shots"]), lambda row: row["shots"], left=True),
    Column("pattern", lambda row: row["pattern"] if isinstance(row["pattern"], str) else NOTHING, left=True),
    Column("method", method_name, left=True),
)
RUNS = Column("runs", lambda row: str(row["runs"]), lambda row: row["runs"])
IDS = Column("ids of runs", lambda row: "; ".join(row["ids"]), left=True, wide=True)


def results(found: list[dict[str, Any]], shared: Sequence[str] = ()) -> Table:
    """Every method's final accuracy and what it cost. `shared` are sentences about what all settings have in common."""
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
        *map(largest_class, DOMAINS),
        *map(rows_asked, DOMAINS),
        RUNS,
        IDS,
    )
    rows = [row for row in found if final_cell(row)]
    note = "Of trained models the last checkpoint. CPU s training holds the teacher's answers, those found in a cache included."
    return Table("results", "Results (mean ± standard deviation over runs)", columns, rows, (note, *shared))


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
            Column(f"{name}{tail}", **score(selection, domain))
            for domain, tail in zip(DOMAINS, ("", " out"), strict=True)
            for selection, name in (("teacher", "teacher"), ("before", "before"), ("last", "after"))
        ),
        Column("gap", **gap("in_domain")),
        Column("gap out", **gap("out_of_domain")),
        Column("KL", **score("last", "in_domain", "kl")),
        Column("agreement", **score("last", "in_domain", "agreement")),
        Column("other tasks before", **score("before", "retention")),
        Column("other tasks after", **score("last", "retention")),
        Column("after, context in front", **score("last_with_context", "in_domain"), wide=True),
        Column("tokens/query teacher", **of_query("tokens_per_query", 1, "teacher"), wide=True),
        Column("tokens/query student", **of_query("tokens_per_query", 1), wide=True),
        RUNS,
        IDS,
    )
    rows = [row for row in found if any(selection == "teacher" for selection, *_ in row["cells"])]
    notes = (
        "In-domain; out: out-of-domain. KL (nats) of the student after from the teacher, and how often both answer alike.",
        "Gap: share of it that is recovered, (after - before) / (teacher - before) of each run with a gap, then the mean.",
    )
    return Table("distillation", "Distillation: teacher, student before and after", columns, rows, notes)


def costs(found: list[dict[str, Any]]) -> Table:
    """Where the CPU time of a run went."""
    columns = (
        *WHO,
        Column("load", **of_run("load_cpu_s", 1)),
        Column("teacher", **of_run("teacher_cpu_s", 1)),
        Column("found in cache", **of_run("teacher_saved_cpu_s", 1)),
        Column("training", **of_run("train_cpu_s", 1)),
        Column("evaluation", **of_run("evaluation_cpu_s", 1)),
        Column("run", **of_run("cpu_total_s", 1)),
        Column("user", **of_run("cpu_user_s", 1)),
        Column("system", **of_run("cpu_system_s", 1)),
        Column("wall", **of_run("wall_s", 1)),
        Column("peak MiB", **of_run("rss_peak_bytes", 0, 2**20)),
        Column("mean MiB", **of_run("rss_mean_bytes", 0, 2**20)),
        RUNS,
        IDS,
    )
    note = "CPU seconds of all processes; found in cache: what a teacher's answers had cost that were there, no part of the run."
    return Table("costs", "Costs by phase", columns, found, (note,))


def published(summary: pd.DataFrame) -> Table:
    """Our scores beside the numbers published for the same task, model, method, shots and pattern.

    Args:
        summary: with the columns of `baselines.beside`. Of rows without a published number those are shown that a method is
            judged by, where there are published numbers of the task.
    """
    columns = (
        *WHO,
        Column("selection", lambda row: SELECTION_NAMES[row["selection"]], left=True, stays=True),
        Column("set", lambda row: HEADINGS[row["set"]], left=True, stays=True),
        Column("metric", lambda row: METRICS[row["metric"]], left=True),
        Column("ours", lambda row: spread(row["mean"], row["sd"], 3), lambda row: row["mean"]),
        Column("published", _published, lambda row: row["published_mean"]),
        Column("how it was read", lambda row: _said(row, "provenance"), left=True, stays=True),
        Column("what differs", lambda row: _said(row, "note"), left=True, stays=True),
        Column("source", lambda row: _said(row, "source"), left=True, wide=True),
        RUNS,
        IDS,
    )
    own = summary[
        summary["set"].isin(DOMAINS)
        & summary["metric"].isin(METRICS)
        & summary["selection"].isin(SELECTIONS)
        & summary["task"].isin(baselines()["task"])
    ]
    judged = own["selection"].isin(FINAL) & (own["metric"] == "score_accuracy")
    rows = records(own[own["published_mean"].notna() | judged])
    return Table("published", "Published numbers beside ours", columns, rows, (DIGITISED,))


DIGITISED = "† digitised: read off the markers of a published figure; printed: as printed in a table or text."


def _published(row: Row) -> str:
    if row["published_provenance"] == NONE:
        return NONE
    return spread(row["published_mean"], row["published_sd"], 3) + ("†" if row["published_provenance"] == "digitised" else "")


def _said(row: Row, what: str) -> str:
    return NOTHING if row["published_provenance"] == NONE else row[f"published_{what}"] or NOTHING


def unread(missing: Sequence[tuple[str, str]]) -> Table:
    """Runs whose scores count, but not row by row."""
    columns = (
        Column("run", lambda row: row["run"], left=True, stays=True),
        Column("not compared row by row because", lambda row: row["reason"], left=True, stays=True),
    )
    rows = [{"run": run, "reason": reason} for run, reason in missing]
    return Table("unread", "Runs without predictions", columns, rows)


def left_out(collection: Collection) -> Table:
    """Runs that are in no other table."""
    columns = (
        Column("run", lambda row: row["record"], left=True, stays=True),
        Column("not counted because", lambda row: row["reason"], left=True, stays=True),
    )
    rows = [{"record": record, "reason": reason} for record, reason in collection.left_out]
    return Table("left_out", "Runs that are not counted", columns, rows)
