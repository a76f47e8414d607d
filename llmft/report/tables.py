"""The summary as tables: for a terminal (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from rich.table import Table

from llmft.report.collect import METHOD_NAMES
from llmft.runs.show import selected_on

Column = tuple[str, Callable[[pd.Series], str]]


def method_name(row: pd.Series) -> str:
    """A method as people say it."""
    name = METHOD_NAMES.get(row["method"], row["method"])
    if row["method"] == "icl":
        name = f"in-context, {row['shots']} shots" if row["shots"] else "zero-shot"
    return f"{name} ({row['differs']})" if row["differs"] else name


def spread(name: str, digits: int = 3) -> Callable[[pd.Series], str]:
    """A column's mean, and its standard deviation where there are several runs; a star where it chose the checkpoint."""

    def cell(row: pd.Series) -> str:
        mean, sd = row.get(f"{name}_mean"), row.get(f"{name}_sd")
        if mean is None or pd.isna(mean):
            return "-"
        star = "*" if selected_on(row["stage"], name) else ""
        return f"{mean:.{digits}f}" + ("" if pd.isna(sd) else f" ± {sd:.{digits}f}") + star

    return cell


RESULTS: list[Column] = [
    ("task", lambda row: row["task"]),
    ("model", lambda row: row["model"]),
    ("method", method_name),
    ("in-domain", spread("in_domain")),
    ("out-of-domain", spread("out_of_domain")),
    ("tokens/query", spread("tokens_per_query", 1)),
    ("CPU ms/query", spread("ms_per_query", 1)),
    ("CPU s training", spread("training_cpu_s", 1)),
    ("CPU s run", spread("cpu_s", 1)),
    ("peak MiB", spread("peak_mib", 0)),
    ("mean MiB", spread("mean_mib", 0)),
    ("runs", lambda row: str(row["runs"])),
]

CHECKPOINT_NAMES = {"after": "last", "best_in_domain": "best in-domain", "best_out_of_domain": "best out-of-domain"}

CHECKPOINTS: list[Column] = [
    ("task", lambda row: row["task"]),
    ("model", lambda row: row["model"]),
    ("method", method_name),
    ("checkpoint", lambda row: CHECKPOINT_NAMES[row["stage"]]),
    ("in-domain", spread("in_domain")),
    ("out-of-domain", spread("out_of_domain")),
    ("runs", lambda row: str(row["runs"])),
]

DISTILLATION: list[Column] = [
    ("task", lambda row: row["task"]),
    ("model", lambda row: row["model"]),
    ("method", method_name),
    ("stage", lambda row: {"before": "student before", "after": "student after"}.get(row["stage"], row["stage"])),
    ("in-domain", spread("in_domain")),
    ("out-of-domain", spread("out_of_domain")),
    ("gap recovered", spread("gap_in_domain")),
    ("gap recovered out", spread("gap_out_of_domain")),
    ("other tasks", spread("retention")),
    ("KL to teacher (in-domain)", spread("kl")),
    ("agreement", spread("agreement")),
    ("tokens/query", spread("tokens_per_query", 1)),
    ("runs", lambda row: str(row["runs"])),
]


def terminal_table(title: str, columns: list[Column], summary: pd.DataFrame) -> Table:
    """The table for a terminal; columns that say the same (or nothing) in every row are left out."""
    table = Table(title=title, title_justify="left")
    shown = _telling(columns, summary)
    for name, _ in shown:
        table.add_column(name, justify="left" if name in ("task", "model", "method", "stage", "checkpoint") else "right")
    for _, row in summary.iterrows():
        table.add_row(*(cell(row) for _, cell in shown))
    return table


def markdown_table(columns: list[Column], summary: pd.DataFrame) -> str:
    """The same as Markdown."""
    shown = _telling(columns, summary)
    lines = ["| " + " | ".join(name for name, _ in shown) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(cell(row) for _, cell in shown) + " |" for _, row in summary.iterrows()]
    return "\n".join(lines) + "\n"


def _telling(columns: list[Column], summary: pd.DataFrame) -> list[Column]:
    """Columns worth showing: not those without a value anywhere; task and model only where there are several."""
    kept = []
    for name, cell in columns:
        cells = {cell(row) for _, row in summary.iterrows()}
        if cells == {"-"} or (name in ("task", "model") and len(cells) == 1):
            continue
        kept.append((name, cell))
    return kept
