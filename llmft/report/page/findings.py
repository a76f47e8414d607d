"""The report's findings in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.figures.points import look_name, looks_of
from llmft.report.records.names import EVALUATED, HEADINGS, method_name, metric_name, shown_method
from llmft.report.statistics.summary import SAME
from llmft.report.tables.comparisons import cpu_break_even

if TYPE_CHECKING:
    from llmft.report.records.collect import Collection

MOST, METHODS = 8, 4
"""Maximum number of tasks with a sentence, and of methods in it."""


def summary(collection: Collection, points: pd.DataFrame) -> list[str]:
    """What was run: the numbers of runs, methods, tasks and models. `points` is the result of `figures.points`."""
    runs = collection.runs
    names = [look_name(key) for key in looks_of(points["look"])]
    tasks, models = (list(runs[name].unique()) for name in ("task", "model"))
    sizes = runs.groupby("setting").size()
    each = _count(sizes.min(), "run") if sizes.nunique() == 1 else f"{sizes.min()} to {sizes.max()} runs"
    lines = [
        "A language model answers with a context in its prompt: demonstrations, a document, an instruction. Can it answer "
        "without it after fine-tuning, or after distillation of its own answers, and is that worth the cost?",
        f"{_count(len(runs), 'finished run')} in {_count(len(sizes), 'setting')}, {each} each; "
        f"{_count(len(tasks), 'task')} ({_first(tasks)}), {_count(len(models), 'model')} ({_first(models)}). "
        f"Methods: {_first(names, 12, '; ')}. Metrics: {_first([metric_name(name) for name in runs['headline'].unique()])}.",
    ]
    if collection.left_out:
        lines.append(f"{_count(len(collection.left_out), 'run')} unfinished, unreadable or duplicated: listed below, in no mean.")
    return lines


def findings(means: pd.DataFrame, evens: pd.DataFrame, other_rows: Container[tuple[str, str, str]] = ()) -> list[str]:
    """The results, one sentence for each task: its best group by each headline metric, and each method's earliest break-even.

    Args:
        means: groups of runs (`points.mean_points`) at the selection that methods are judged by.
        evens: the result of `break_even.break_evens`.
        other_rows: the result of `summary.tasks_with_other_rows`.
    """
    lines = []
    for task, groups in means.groupby("task", sort=False):
        best = [_best(group, other_rows) for _, group in groups.groupby("headline", sort=False)]
        if parts := [part for part in (*best, *_cheaper(evens, str(task))) if part]:
            lines.append(f"{task}: {'; '.join(parts)}.")
    rest = len(lines) - MOST
    return lines[:MOST] + ([f"And {_count(rest, 'more task')} below."] if rest > 0 else [])


def _best(groups: pd.DataFrame, other_rows: Container[tuple[str, str, str]]) -> str:
    """The best of the groups, which share a headline metric, in each domain; all that are equally good."""
    best, higher = [], bool(groups["higher_is_better"].iloc[0])
    for domain in EVALUATED if len(groups) > 1 else ():
        scores = groups[domain]
        if scores.notna().any():
            row = groups.loc[scores.idxmax() if higher else scores.idxmin()]
            ties = groups[(scores - row[domain]).abs() < SAME].to_dict("records")
            names = _first([_named(tie["name"], tie, groups) for tie in ties], METHODS, " and ")
            same = groups[f"rows_{domain}"].dropna().nunique() == 1 and (row["task"], row["headline"], domain) not in other_rows
            alone = len(ties) == 1 and pd.notna(row[f"{domain}_sd"])
            score = f"{row[domain]:.3f}" + (f" ± {row[f'{domain}_sd']:.3f}" if alone else "")
            other = "" if same else " (not all on the same rows)"
            best.append(f"{HEADINGS[domain]} {names} with {score}{other}")
    name = f"{'highest' if higher else 'lowest'} {metric_name(groups['headline'].iloc[0])}"
    return f"{name} {' and '.join(best)}" if best else ""


def _cheaper(evens: pd.DataFrame, task: str) -> tuple[str, str]:
    """The smallest number of queries after which each method has cost less CPU time than prompting, with the scores of both,
    since cheap methods may score badly; and the methods for which there is none. What is not told apart is left out."""
    rows = evens[(evens["task"] == task) & evens["cpu_s_queries"].notna()] if len(evens) else evens
    if rows.empty:
        return "", ""
    noisy = {*rows.loc[~rows["cpu_s_told_apart"], "method"]}
    rows = rows[rows["cpu_s_told_apart"]]
    first = rows.sort_values("cpu_s_queries", kind="stable").drop_duplicates("method")
    soonest = []
    for row in first[first["cpu_s_queries"] < math.inf].to_dict("records"):
        several = rows.loc[rows["method"] == row["method"], "shots"].nunique() > 1
        name = shown_method(row) + (f", {row['shots']:.0f} shots" if several else "")
        scores = f"{row['score']:.3f} against {row['score_prompting']:.3f}" + (", on different rows" if row["other_rows"] else "")
        soonest.append(f"{cpu_break_even(row)} queries ({_named(name, row, rows)}: {scores})")
    after = f"training first costs less CPU time than prompting after {_first(soonest, METHODS, '; ')}" if soonest else ""
    dearer = first[(first["cpu_s_queries"] == math.inf) & ~first["method"].isin(noisy)]
    never = [method_name(row) for row in dearer.to_dict("records")]
    saved = f"training never saves CPU time, after any number of queries, with {_first(never, METHODS, '; ')}" if never else ""
    return after, saved


def _named(name: str, row: pd.Series | dict, among: pd.DataFrame) -> str:
    """A group's name, with its pattern and model if its task has several."""
    several = [str(row[key]) for key in ("pattern", "model") if among[key].nunique() > 1 and pd.notna(row[key])]
    return ", ".join([name, *several])


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _first(names: list[str], most: int = 6, between: str = ", ") -> str:
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
