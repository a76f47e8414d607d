"""The report's findings in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.figures.points import look_name, looks_of
from llmft.report.records.names import DOMAINS, method_name

if TYPE_CHECKING:
    from llmft.report.records.collect import Collection

MOST, METHODS = 8, 4
"""The most tasks that are told in words, and methods of each."""


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
        lines.append(f"{_count(len(collection.left_out), 'run')} unfinished, unreadable or there twice: below, in no mean.")
    return lines


def findings(means: pd.DataFrame, evens: pd.DataFrame, unlike: Container[tuple[str, str]] = ()) -> list[str]:
    """What came out, a sentence a task: its most accurate group, and the soonest break-even of each method.

    Args:
        means: groups of runs (`points.groups`) at the selection that methods are judged by.
        evens: of `break_even.break_evens`.
        unlike: of `paired.asked_unlike`.
    """
    parts = [
        (task, _accurate(own, str(task), unlike), _cheaper(evens, str(task))) for task, own in means.groupby("task", sort=False)
    ]
    lines = [f"{task}: {'; '.join(filter(None, said))}." for task, *said in parts if any(said)]
    rest = len(lines) - MOST
    return lines[:MOST] + ([f"And {_count(rest, 'more task')} below."] if rest > 0 else [])


def _accurate(own: pd.DataFrame, task: str, unlike: Container[tuple[str, str]]) -> str:
    best = []
    for domain in DOMAINS if len(own) > 1 else ():
        if own[domain].notna().any():
            row = own.loc[own[domain].idxmax()]
            same = own[f"rows_{domain}"].dropna().nunique() == 1 and (task, domain) not in unlike
            other = "" if same else " (not all on the same rows)"
            best.append(f"{domain.replace('_', '-')} {_named(row['name'], row, own)} with {_accuracy(row, domain)}{other}")
    return f"most accurate {' and '.join(best)}" if best else ""


def _accuracy(row: pd.Series, domain: str) -> str:
    return f"{row[domain]:.3f}" + ("" if pd.isna(row[f"{domain}_sd"]) else f" ± {row[f'{domain}_sd']:.3f}")


def _cheaper(evens: pd.DataFrame, task: str) -> str:
    """The fewest queries after which each method has cost less CPU time than prompting, and the methods that never do."""
    own = evens[(evens["task"] == task) & evens["cpu_s_queries"].notna()] if len(evens) else evens
    if own.empty:
        return ""
    first = own.sort_values("cpu_s_queries", kind="stable").drop_duplicates("method")
    found, never = first[first["cpu_s_queries"] < math.inf], first[first["cpu_s_queries"] == math.inf]
    said = []
    for _, row in found.iterrows():
        several = own.loc[own["method"] == row["method"], "shots"].nunique() > 1
        name = method_name(row.to_dict()) + (f", {row['shots']:.0f} shots" if several else "")
        other = ", on other rows" if row["other_rows"] else ""
        said.append(f"{row['cpu_s_queries']:,.0f} queries ({_named(name, row, own)}{other})")
    after = f"training has cost less CPU time than prompting soonest after {_some(said, METHODS, '; ')}" if said else ""
    names = [method_name({**row, "differs": ""}) for row in never.to_dict("records")]
    saved = f"training has saved no CPU time after any number of queries with {_some(names, METHODS, '; ')}" if names else ""
    return "; ".join(filter(None, (after, saved)))


def _named(name: str, row: pd.Series, among: pd.DataFrame) -> str:
    """A group with its pattern and model, where those of its task have several."""
    several = [str(row[key]) for key in ("pattern", "model") if among[key].nunique() > 1 and pd.notna(row[key])]
    return ", ".join([name, *several])


def _spread_of(runs: pd.DataFrame) -> str:
    sizes = runs.groupby("setting").size()
    return f"{_count(sizes.min(), 'run')} each" if sizes.nunique() == 1 else f"{sizes.min()} to {sizes.max()} runs each"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _some(names: list[str], most: int = 6, between: str = ", ") -> str:
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
