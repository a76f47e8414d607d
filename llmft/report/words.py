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
        f"Methods: {_some(names, 12)}.",
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
    for (task, model), own in parts[:MOST]:
        best = [
            f"{domain.replace('_', '-')} {_named(own.loc[own[domain].idxmax()], domain)}"
            for domain in DOMAINS
            if own[domain].notna().any()
        ]
        if len(own) > 1 and best:
            lines.append(f"{task} ({model}): most accurate {'; '.join(best)}.")
        lines += [_even(row) for row in _of(evens, task, model) if not math.isnan(row["cpu_s_queries"])][:3]
    if len(parts) > MOST:
        lines.append(f"{len(parts) - MOST} further pairs of task and model are in the table below.")
    return lines


def _even(row: Mapping[str, Any]) -> str:
    against = "its teacher" if row["against"] == "teacher" else "in-context learning"
    name = method_name({**row, "differs": ""})
    costs = f"({1000 * row['cpu_s_own']:.2f} against {1000 * row['cpu_s_prompting']:.2f} CPU ms a query)"
    if math.isinf(row["cpu_s_queries"]):
        return f"{row['task']} ({row['model']}): {name} never costs less CPU time than prompting {against} {costs}."
    return (
        f"{row['task']} ({row['model']}): {name} has cost less CPU time than prompting {against} "
        f"after {row['cpu_s_queries']:,.0f} queries {costs}."
    )


def _of(evens: pd.DataFrame, task: str, model: str) -> list[dict[str, Any]]:
    return evens[(evens["task"] == task) & (evens["model"] == model)].to_dict("records") if len(evens) else []


def _named(row: pd.Series, domain: str) -> str:
    spread = "" if pd.isna(row[f"{domain}_sd"]) else f" ± {row[f'{domain}_sd']:.3f}"
    return f"{row['name']}, {row[domain]:.3f}{spread}"


def _spread_of(runs: pd.DataFrame) -> str:
    sizes = runs.groupby("setting").size()
    return f"{_count(sizes.min(), 'run')} each" if sizes.nunique() == 1 else f"{sizes.min()} to {sizes.max()} runs each"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
