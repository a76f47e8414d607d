"""The threshold of task diversity, M*: the pool size at which more data stops moving a model away from ridge on fresh tasks and
starts moving it towards ridge (Raventos et al. 2023, section 3.1)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pandas as pd
from scipy.stats import ttest_1samp

from llmft.worlds.regression.evaluation import TRUE
from llmft.worlds.regression.tasks import FRESH

SIGNIFICANT = 0.05
"""A change has a direction if the two-sided p of Student's t over seeds is below this."""
BUDGET = ("steps", "batch_size")
COMPARED = ["kind", "dimension", "held", "less", "more"]
"""What identifies a pair of budgets."""


def changes_of(results: pd.DataFrame) -> pd.DataFrame:
    """How the distance to ridge on fresh tasks changes from each budget of a kind to the next, one row for each seed and pool.
    Budgets differ either in the steps or in the batch size; the other of the two is held.

    Returns:
        `kind`, `dimension`, `held` (such as `batch_size 64`), `seed`, `pool`, `less` and `more` (sequences of the two budgets),
        `to_ridge_less`, `to_ridge_more`, and `change`, their difference, which is above 0 if the model has moved away.
    """
    true = results[results["tasks"] == TRUE]
    rows: list[dict[str, Any]] = []
    for (kind, dimension), of_kind in true.groupby(["kind", "dimension"], sort=False):
        for varied, held in (BUDGET, BUDGET[::-1]):
            for value, part in of_kind.groupby(held):
                by_budget = {budget: one for budget, one in part.groupby(varied)}
                for less, more in pairwise(sorted(by_budget)):
                    both = by_budget[less].merge(by_budget[more], on=["seed", "pool"], suffixes=("_less", "_more"))
                    rows += [
                        {
                            "kind": kind, "dimension": dimension, "held": f"{held} {value}", "seed": row.seed, "pool": row.pool,
                            "less": less * value, "more": more * value, "to_ridge_less": row.to_ridge_less,
                            "to_ridge_more": row.to_ridge_more, "change": row.to_ridge_more - row.to_ridge_less,
                        }
                        for row in both.itertuples()
                    ]  # fmt: skip
    return pd.DataFrame(rows)


def threshold(changes: dict[int, float]) -> float | None:
    """M* of one seed, interpolated in log M, where the change from one budget to the next falls through 0 for the last time.
    Earlier crossings do not count: the smallest pools are so far from ridge that chance decides which way they move.

    Args:
        changes: pool size -> change of the distance to ridge; fresh tasks do not count.

    Returns:
        The crossing; None if no change is above 0, or if the largest pool's is.
    """
    sizes = sorted(size for size in changes if size != FRESH)
    falls = [(a, b) for a, b in pairwise(sizes) if changes[a] > 0 >= changes[b]]
    if not falls or changes[sizes[-1]] > 0:
        return None
    (low, high) = falls[-1]
    share = changes[low] / (changes[low] - changes[high])
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def summary_of_changes(changes: pd.DataFrame) -> pd.DataFrame:
    """For each kind and pair of budgets: M* of each seed, and for each pool the change of every seed with its direction, which is
    `away` or `towards` if seeds tell it apart from 0 (t test, p < .05), else `not told apart`."""
    rows = []
    for key, part in changes.groupby(COMPARED, sort=False) if len(changes) else ():
        between = dict(zip(COMPARED, key, strict=True))
        sizes = sorted(part["pool"].unique(), key=lambda size: size if size != FRESH else math.inf)
        for size in sizes:
            values = part[part["pool"] == size].sort_values("seed")["change"]
            rows.append(
                between | {"what": f"change at M={size or 'inf'}", "seeds": _listed(values), "verdict": direction(values)}
            )
        of_seeds = {seed: threshold(dict(zip(one["pool"], one["change"], strict=True))) for seed, one in part.groupby("seed")}
        stars = ", ".join(f"{star:.0f}" if star else "none" for star in of_seeds.values())
        rows.append(between | {"what": "M*", "seeds": stars, "verdict": ""})
    return pd.DataFrame(rows)


def direction(values: pd.Series) -> str:
    """The direction of a change over all seeds."""
    if len(values) < 2 or not ttest_1samp(values, 0.0).pvalue < SIGNIFICANT:  # NaN if no value differs from 0
        return "not told apart"
    return "away" if values.mean() > 0 else "towards"


def _listed(values: pd.Series) -> str:
    return ", ".join(f"{value:+.4f}" for value in values)
