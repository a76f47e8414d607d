"""What the runs say together: means and spreads over seeds, intervals, and tests of differences. scipy does the work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from llmft.report.collect import Collection
from llmft.report.names import METHOD_NAMES, SELECTION_NAMES, in_order_of

GROUP = ["task", "model", "shots", "pattern", "method", "differs", "setting"]
"""What runs share that are repetitions of each other: everything but their seeds."""
CELL = ["selection", "stage", "set", "metric"]
PER_QUERY = ("tokens_per_query", "cpu_ms_per_query", "flops_per_query", "flops_per_query_alone")
NO_COSTS = {"id", "record", "weights", "queries", "seed", "data_seed", *GROUP}


def summarise(collection: Collection) -> pd.DataFrame:
    """Every measured value over the runs that differ in nothing but their seeds.

    Returns:
        A row for each group of runs, selection, set and metric: `mean`, `sd` (n - 1), `min`, `max`, number of `runs`, their
        `ids`; mean and sd of what a run cost and of what a query cost (`<cost>_mean`, `<cost>_sd`); mean `gap_recovered`,
        `weights`, `queries`, `selected_on_evaluation_set`.
    """
    runs = collection.runs
    group = runs.groupby(GROUP, sort=False, dropna=False, observed=True).ngroup()
    groups = runs.assign(group=group).drop_duplicates("group").set_index("group")[[*GROUP, "weights", "queries"]]
    costs = _mean_and_sd(runs.groupby(group), [c for c in runs.columns if c not in NO_COSTS])
    scores = collection.scores
    scores = scores.assign(group=scores["id"].map(dict(zip(runs["id"], group, strict=True))).astype(int))
    cells = scores.groupby(["group", *CELL], sort=False, observed=True)
    values = cells["value"]
    found = pd.DataFrame({"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()})
    found["runs"] = cells.size()
    found["selected_on_evaluation_set"] = cells["selected_on_evaluation_set"].first()
    found["n"] = cells["n"].mean()
    found["gap_recovered"] = cells["gap_recovered"].mean()
    found["ids"] = _members(cells.ngroup().to_numpy(), scores["id"].astype(str).to_numpy(), len(found))
    found = found.join(_mean_and_sd(cells, PER_QUERY)).reset_index()
    found = found.merge(groups.join(costs), left_on="group", right_index=True, how="left")
    first = [*GROUP, "weights", "queries", *CELL]
    found = found[[*first, *(c for c in found.columns if c not in (*first, "group"))]]
    found = in_order_of(found, SELECTION_NAMES, "selection", [], [])
    return in_order_of(found, METHOD_NAMES, "method", ["task", "weights", "model"], ["shots", "pattern", "differs", "setting"])


def _mean_and_sd(grouped: pd.api.typing.DataFrameGroupBy, columns: Sequence[str]) -> pd.DataFrame:
    means, sds = grouped[list(columns)].mean(), grouped[list(columns)].std()
    return pd.DataFrame({f"{c}_{how}": frame[c] for c in columns for how, frame in (("mean", means), ("sd", sds))})


def _members(group: np.ndarray, ids: np.ndarray, number: int) -> list[list[str]]:
    """The ids of each group, sorted."""
    order = np.lexsort((ids, group))
    bounds = np.searchsorted(group[order], np.arange(1, number))
    return [part.tolist() for part in np.split(ids[order], bounds)]
