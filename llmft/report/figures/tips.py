"""What the marks of the figures say when one points at them or reaches them by keyboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llmft.report.records.names import DOMAINS, HEADINGS, selection_name

NAMED = 500
"""Of more runs than these no single one says what it is: the page would be as large as all their records."""


def with_tips(judged: pd.DataFrame, means: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both with a column `tip`.

    Args:
        judged: rows of `points.points`, a run each.
        means: `points.groups` of them.

    Returns:
        The runs, whose tip is their group, id, seeds and scores, or "" where there are more than `NAMED`; and the groups,
        whose tip is their name, task and selection, scores and how many runs they are of.
    """
    several = [name for name in ("pattern", "model") if means[name].nunique() > 1]
    groups, runs = [], {}
    for group in means.to_dict("records"):
        name = ", ".join([group["name"], *(group[key] for key in several if isinstance(group[key], str))])
        who = f"{name}\n{group['task']}, {selection_name(group['selection'])}"
        count = len(group["members"])
        groups.append(f"{who}{_scores(group)}\n{count} run{'s' if count > 1 else ''}")
        runs |= dict.fromkeys(group["members"], who)
    if len(judged) > NAMED:
        return judged.assign(tip=""), means.assign(tip=groups)
    tips = [
        f"{runs[place]}\nrun {run['id']}, seed {run['seed']}, data seed {run['data_seed']}{_scores(run)}"
        for place, run in zip(judged.index, judged.to_dict("records"), strict=True)
    ]
    return judged.assign(tip=tips), means.assign(tip=groups)


def _scores(row: Mapping[str, Any]) -> str:
    """A line for each domain with a score, and its deviation if there is one."""
    lines = []
    for domain in DOMAINS:
        if pd.notna(row[domain]):
            spread = row.get(f"{domain}_sd")
            lines.append(f"\n{HEADINGS[domain]} {row[domain]:.3f}" + (f" ± {spread:.3f}" if pd.notna(spread) else ""))
    return "".join(lines)
