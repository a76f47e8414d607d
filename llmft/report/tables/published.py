"""Published numbers next to ours.

`published.csv` is made by `scripts/clean_baselines.py`. A number is matched with one of ours if task, evaluation set, model,
method, shots, pattern and metric are the same. If checkpoints were selected by another rule, or other rows were evaluated, the
note says so; it also has our arguments that differ from their default, since sources rarely give as many.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmft.report.records.names import GROUP, HEADINGS, records
from llmft.report.tables.table import TableRow

SELECTIONS = ("icl", "last", "best_in_domain", "best_out_of_domain")
"""Our selections that published numbers can have; if ours was not published, the first available one is shown."""
WHOLE = ("all", "1000 random")
"""Subsets that are all rows that the task uses; the latter is its own draw."""
NONE = "none"
COLUMNS = ["published_mean", "published_sd", "published_provenance", "published_source", "published_note", "published"]
NOTHING = dict(zip(COLUMNS, (float("nan"), float("nan"), NONE, NONE, NONE, NONE), strict=True))


@cache
def published_numbers() -> pd.DataFrame:
    """All published numbers: a row for each task, evaluation set (which of our sets make it up, and which of its rows), model,
    method, shots, pattern, selection and metric of a source (`our_metric`: its name in our records); `provenance` is printed,
    digitised (read off a figure by its markers) or log."""
    return pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=True, na_values=[""])


@cache
def our_metrics() -> dict[str, str]:
    """Metrics of our records with published numbers, and their published names."""
    table = published_numbers()
    return dict(zip(table["our_metric"], table["metric"], strict=True))


def add_published(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with the published number for each row.

    Args:
        summary: the result of `statistics.summary.summarise`.

    Returns:
        The same rows and `published_mean`, `published_sd`, `published_provenance`, `published_source` (with the place in it),
        `published_note` (what differs; `none` if nothing is published) and `published` (all of this as a short text).
    """
    chosen = summary["metric"].isin(our_metrics()) & summary["selection"].isin(SELECTIONS)
    chosen &= summary["task"].isin(published_numbers()["task"])
    sets, numbers = _published_sets(summary), [NOTHING] * len(summary)
    for place, row in zip(np.flatnonzero(chosen), records(summary[chosen]), strict=True):
        numbers[place] = _match(row, sets[place])
    return pd.concat([summary, pd.DataFrame(numbers, index=summary.index, columns=COLUMNS)], axis=1)


def _published_sets(summary: pd.DataFrame) -> list[str | None]:
    """The name of each row's set in `published.csv`; None if it has none.

    The sets pooled as `out_of_domain` are inferred from the single sets of the same group.
    """
    groups = summary.groupby(list(GROUP), sort=False, dropna=False).ngroup().tolist()
    members: dict[int, set[str]] = {}
    for place, name in zip(groups, summary["set"], strict=True):
        members.setdefault(place, set()).add(name)
    return [
        _published_set(task, name, frozenset(members[place]))
        for task, name, place in zip(summary["task"], summary["set"], groups, strict=True)
    ]


def _published_set(task: str, name: str, members: frozenset[str]) -> str | None:
    sets = {task if name == "in_domain" else name}
    if name == "out_of_domain":
        sets = {s for s in members if s not in (*HEADINGS, task) and not s.startswith("retention")}
    return _eval_sets().get((task, frozenset(sets)))


@cache
def _eval_sets() -> dict[tuple[str, frozenset[str]], str]:
    """Task and those of our sets that make up an evaluation set of `published.csv` -> its name."""
    table = published_numbers().dropna(subset="our_sets")
    names = zip(table["task"], table["our_sets"], table["eval_set"], strict=True)
    return {(task, frozenset(sets.split(";"))): name for task, sets, name in names}


def _match(row: TableRow, eval_set: str | None) -> dict[str, Any]:
    if eval_set is None:
        return NOTHING
    pattern = "none" if row["method"].startswith("vanilla") else row["pattern"]
    key = (row["task"], eval_set, _last(row["model"]), row["method"], float(row["shots"]), pattern, row["metric"])
    candidates = [_differences(row, one) for one in _index().get(key, ())]
    if not candidates:
        return NOTHING
    selections, printed_first = [*SELECTIONS, "not stated"], ("printed", "digitised", "log")
    notes, one = min(
        candidates,
        key=lambda pair: (len(pair[0]), selections.index(pair[1]["selection"]), printed_first.index(pair[1]["provenance"])),
    )
    notes = [*notes, *([one["note"]] if isinstance(one["note"], str) else [])]
    spread = "" if pd.isna(one["sd"]) else f" ± {one['sd']:.3f}"
    text = f"{one['mean']:.3f}{spread} ({one['provenance']}{'; ' if notes else ''}{'; '.join(notes)})"
    source = f"{one['source']}, {one['location']}"
    return dict(zip(COLUMNS, (one["mean"], one["sd"], one["provenance"], source, "; ".join(notes), text), strict=True))


def _last(model: object) -> str:
    """A model's name without its hub owner or parent folders."""
    return str(model).split("/")[-1].lower()


@cache
def _index() -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    index: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in published_numbers().to_dict("records"):
        key = (one["task"], one["eval_set"], _last(one["model"]), one["method"])
        index.setdefault((*key, float(one["shots"]), one["pattern"], one["our_metric"]), []).append(one)
    return index


@cache
def _whole(eval_set: str) -> float:
    """The number of rows of an evaluation set if all rows that the task uses are evaluated; NaN if no source gives it."""
    table = published_numbers()
    return table.loc[(table["eval_set"] == eval_set) & table["subset"].isin(WHOLE), "n_eval"].max()


def _differences(row: TableRow, one: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Differences that must be stated when comparing with a published number."""
    notes = []
    if one["selection"] != row["selection"]:
        notes.append(f"selection there: {one['selection'].replace('_', ' ')}")
    n = row["n"]
    if one["subset"] not in WHOLE:
        notes.append(f"rows there: {one['subset']}")
    elif not pd.isna(n):
        there, whole = one["n_eval"], _whole(one["eval_set"])
        if pd.isna(there) and n != whole and not pd.isna(whole):
            notes.append(f"rows there: number not given, here: {n:.0f} of {whole:.0f}")
        elif not pd.isna(there) and n != there:
            notes.append(f"rows there: {there:.0f}, here: {n:.0f}")
    if row.get("non_default"):
        notes.append(f"here: {row['non_default']}")
    return notes, one
