"""The report's findings in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.names import DOMAINS, method_name
from llmft.report.points import look_name, looks_of

if TYPE_CHECKING:
    from llmft.report.collect import Collection

MOST = 4
"""The most pairs of task and model that are told in words."""


def summary(collection: Collection, found: pd.DataFrame) -> list[str]:
    """What was run: how many, of which methods, on what. `found` are rows of `points`."""
    runs = collection.runs
    names = [look_name(key) for key in looks_of(found["look"])]
    tasks, models = (list(runs[name].unique()) for name in ("task", "model"))
    lines = [
        "A language model answers with demonstrations in its prompt. Can it answer without them after fine-tuning on them, or "
        "after distillation of its own answers, and is that worth the cost?",
        f"{_count(len(runs), 'finished run')} in {_count(runs['setting'].nunique(), 'setting')}, {_spread_of(runs)}; "
        f"{_count(len(tasks), 'task')} ({_some(tasks)}), {_count(len(models), 'model')} ({_some(models)}). "
        f"Methods: {_some(names, 12, '; ')}.",
    ]
    if collection.left_out:
        lines.append(f"{_count(len(collection.left_out), 'run')} not finished or not readable: listed at the end, in no mean.")
    return lines


def findings(means: pd.DataFrame, evens: pd.DataFrame) -> list[str]:
    """What came out, a sentence each.

    Args:
        means: groups of runs (`points.groups`) at the selection that methods are judged by.
        evens: of `break_even.break_evens`.
    """
    lines = []
    parts = list(means.groupby(["task", "model"], sort=False))
    several = means["model"].nunique() > 1
    for (task, model), own in parts[:MOST]:
        where = f"{task} ({model})" if several else task
        best = [f"{d.replace('_', '-')} {_named(own.loc[own[d].idxmax()], d)}" for d in DOMAINS if own[d].notna().any()]
        if len(own) > 1 and best:
            lines.append(f"{where}: most accurate {' and '.join(best)}.")
        even = [_even(row) for row in _of(evens, task, model) if not math.isnan(row["cpu_s_queries"])]
        if even:
            more = f" and {len(even) - MOST} more" if len(even) > MOST else ""
            lines.append(f"{where}: training has cost less CPU time than prompting after {', '.join(even[:MOST])}{more}.")
    if len(parts) > MOST:
        lines.append(f"{len(parts) - MOST} further pairs of task and model are in the table below.")
    return lines


def _even(row: Mapping[str, Any]) -> str:
    queries = "no number of" if math.isinf(row["cpu_s_queries"]) else f"{row['cpu_s_queries']:,.0f}"
    return f"{queries} queries ({method_name(row)})"


def _of(evens: pd.DataFrame, task: str, model: str) -> list[dict[str, Any]]:
    return evens[(evens["task"] == task) & (evens["model"] == model)].to_dict("records") if len(evens) else []


def _named(row: pd.Series, domain: str) -> str:
    spread = "" if pd.isna(row[f"{domain}_sd"]) else f" ± {row[f'{domain}_sd']:.3f}"
    return f"{row['name']} ({row[domain]:.3f}{spread})"


def _spread_of(runs: pd.DataFrame) -> str:
    sizes = runs.groupby("setting").size()
    return f"{_count(sizes.min(), 'run')} each" if sizes.nunique() == 1 else f"{sizes.min()} to {sizes.max()} runs each"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _some(names: list[str], most: int = 6, between: str = ", ") -> str:
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
