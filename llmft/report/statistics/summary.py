"""Statistics over runs: means and spreads over seeds, and tests of differences. scipy does the work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from llmft.report.records.collect import Collection
from llmft.report.records.names import EVALUATED, FINAL, GROUP, METHOD_NAMES, SELECTION_NAMES, in_order_of, rows_text

CELL = ["selection", "stage", "set", "metric"]
PER_QUERY = ("tokens_per_query", "kv_bytes_per_query", "cpu_ms_per_query", "flops_per_query", "flops_per_query_alone")
COMPARED = ("icl", "last", "best_in_domain", "best_out_of_domain")
"""Selections that are compared with each other."""
MOST = 40
"""Maximum number of groups of runs of one task, model and number of shots for testing every pair."""
MAJORITY = {domain: f"majority_{domain}" for domain in EVALUATED}
OF_SETTINGS = ("weights", "queries", "context", "on_document", "non_default", "higher_is_better")
"""Properties of a setting besides its name."""
HOW = ("selected_on_evaluation_set", "precision")
"""How a stage of a setting is evaluated."""
NO_COSTS = {"id", "record", "seed", "data_seed", *OF_SETTINGS, *GROUP}
SAME = 1e-9
"""Shares closer than this count as equal."""


def summarise(collection: Collection) -> pd.DataFrame:
    """Every measured value over the runs that differ only in their seeds.

    Returns:
        A row for each group of runs, selection, set and metric: `mean`, `sd` (n - 1), `min`, `max`, number of `runs`, their
        `ids`; mean and sd of the costs per run and per query (`<cost>_mean`, `<cost>_sd`); `gap_recovered` (mean),
        `gap_recovered_sd` and `gap_recovered_runs`, of the runs that had a gap; `OF_SETTINGS`, `selected_on_evaluation_set`,
        `precision`; `n`, and `rows`: `n` and the sets of these rows; `row_digests` of the rows themselves; `majority`: the
        accuracy of always answering the largest class, in the pooled domains.
    """
    runs = collection.runs
    group = runs.groupby(list(GROUP), sort=False, dropna=False, observed=True).ngroup()
    groups = runs.assign(group=group).drop_duplicates("group").set_index("group")[[*GROUP, *OF_SETTINGS]]
    costs = _mean_and_sd(runs.groupby(group), [name for name in runs.columns if name not in NO_COSTS])
    scores = collection.scores
    scores = scores.assign(group=scores["id"].map(dict(zip(runs["id"], group, strict=True))).astype(int))
    cells = scores.groupby(["group", *CELL], sort=False, observed=True)
    summary = cells["value"].agg(["mean", "std", "min", "max", "size"]).rename(columns={"std": "sd", "size": "runs"})
    summary[list(HOW)] = cells[list(HOW)].first()
    summary["n"] = cells["n"].mean()
    gaps = cells["gap_recovered"].agg(["mean", "std", "count"])  # runs without a gap have none
    summary[["gap_recovered", "gap_recovered_sd", "gap_recovered_runs"]] = gaps
    summary["ids"] = _members(cells.ngroup().to_numpy(), scores["id"].astype(str).to_numpy(), len(summary))
    summary = summary.join(_mean_and_sd(cells, PER_QUERY)).reset_index()
    summary = summary.merge(groups.join(costs), left_on="group", right_index=True, how="left")
    summary["rows"] = [
        rows_text(n, collection.sets[ids[0]].get(name, (name,)))
        for n, ids, name in zip(summary["n"], summary["ids"], summary["set"], strict=True)
    ]
    summary["row_digests"] = [
        frozenset(collection.row_scores[run, name].rows for run in ids if (run, name) in collection.row_scores)
        for ids, name in zip(summary["ids"], summary["set"], strict=True)
    ]
    rates = [summary[f"{name}_mean"] for name in MAJORITY.values()]
    summary["majority"] = np.select([summary["set"] == domain for domain in MAJORITY], rates, np.nan)
    summary = summary.drop(columns=[f"{name}_{how}" for name in MAJORITY.values() for how in ("mean", "sd")])
    first = [*GROUP, *OF_SETTINGS, *CELL]
    summary = summary[[*first, *(name for name in summary.columns if name not in (*first, "group"))]]
    summary = in_order_of(summary, SELECTION_NAMES, "selection", [], [])
    return in_order_of(summary, METHOD_NAMES, "method", ["task", "weights", "model"], ["shots", "pattern", "differs", "setting"])


def _mean_and_sd(grouped: pd.api.typing.DataFrameGroupBy, columns: Sequence[str]) -> pd.DataFrame:
    means, sds = grouped[list(columns)].mean(), grouped[list(columns)].std()
    return pd.DataFrame({f"{name}_{how}": frame[name] for name in columns for how, frame in (("mean", means), ("sd", sds))})


def _members(group: np.ndarray, ids: np.ndarray, number: int) -> list[list[str]]:
    """The ids of each group, sorted."""
    order = np.lexsort((ids, group))
    bounds = np.searchsorted(group[order], np.arange(1, number))
    return [part.tolist() for part in np.split(ids[order], bounds)]


def majority_of_tasks(runs: pd.DataFrame) -> pd.DataFrame:
    """`task`, `headline`, and for each domain the accuracy of always answering the largest class, if that is one number: NaN
    if the runs were evaluated on rows with different shares."""
    rates = runs.groupby(["task", "headline"], sort=False)[list(MAJORITY.values())]
    one = rates.mean().where(rates.max() - rates.min() < SAME)
    return one.set_axis(list(MAJORITY), axis=1).dropna(how="all").reset_index()


def apart(one: frozenset[bytes], other: frozenset[bytes]) -> bool:
    """Whether no run of one group was evaluated on the same rows as a run of the other. The runs of a group may have different
    rows: some tasks draw them by the data seed. Rows that cannot be read are assumed to be the same."""
    return bool(one and other) and one.isdisjoint(other)


def tasks_with_other_rows(summary: pd.DataFrame) -> set[tuple[str, str, str]]:
    """The tasks, headlines and domains with two groups of runs that are `apart`."""
    judged = summary["set"].isin(EVALUATED) & summary["selection"].isin(FINAL) & (summary["metric"] == summary["headline"])
    groups = summary[judged].astype({"set": str}).groupby(["task", "headline", "set"])["row_digests"]
    return {key for key, digests in groups if any(apart(*pair) for pair in combinations(set(digests), 2))}


def welch(summary: pd.DataFrame) -> pd.DataFrame:
    """Differences between methods on one task, model and number of shots, by Welch's t-test over seeds (Mosbach et al. 2023).

    Runs without shots are compared with those of every number of shots, and with each other if one has another context.
    Trained models are compared at the same selection (last with last), and each with prompting. If there are more than `MOST`
    groups of runs, they are only compared with prompting.

    Returns:
        A row for each pair: `task`, `headline`, `higher_is_better`, `shots`, `selection` (of the trained one), `set`;
        `<column>_a` and `<column>_b` of the groups in the order of tables; `other_rows`, `other_precision`: whether they were
        evaluated on different rows, or in different precisions; `difference` (of means, b - a), `t`, and `p` (two-sided, not
        corrected for the number of tests; NaN if a group has one run, or no group varies).
    """
    table, pairs = _comparable(summary), []
    shown = table["shots"].to_numpy()
    others = (table["context"] != "").to_numpy()
    for places in _groups(table, ["task", "model", "set", "headline"]):
        shots = shown[places]  # runs without shots belong to each number
        numbers = sorted({*shots.tolist()} - {0})
        alone = [0] if not numbers or others[places].any() else []
        for number in (*alone, *numbers):
            pairs += _pairs(table, places[(shots == number) | (shots == 0)])
    return _test(table, pairs)


def welch_over_sizes(summary: pd.DataFrame) -> pd.DataFrame:
    """The same test between prompting with one model and training another (Mosbach et al. 2023, tables 1 and 2): all pairs of
    models, for each task and number of shots; columns as in `welch`."""
    table, pairs = _comparable(summary), []
    prompting = (table["selection"] == "icl").to_numpy()
    for places in _groups(table, ["task", "shots", "set", "headline"]):
        if table["model"].iloc[places].nunique() > 1:
            pairs += [(a, b) for a in places[prompting[places]] for b in places[~prompting[places]]]
    return _test(table, pairs)


def _comparable(summary: pd.DataFrame) -> pd.DataFrame:
    headline = summary["metric"] == summary["headline"]
    return summary[headline & summary["set"].isin(EVALUATED) & summary["selection"].isin(COMPARED)].reset_index(drop=True)


def _groups(table: pd.DataFrame, keys: list[str]) -> list[np.ndarray]:
    """Positions of the rows of each group."""
    return list(table.groupby(keys, sort=False, dropna=False, observed=True).indices.values())


def _pairs(table: pd.DataFrame, places: np.ndarray) -> list[tuple[int, int]]:
    selection, setting, shots = (table[name].to_numpy() for name in ("selection", "setting", "shots"))
    prompting = [place for place in places if selection[place] == "icl"]
    few = len({setting[place] for place in places}) <= MOST
    most = shots[places].max()
    return [
        (a, b)
        for a in (places if few else prompting)
        for b in places
        if a < b
        and setting[a] != setting[b]
        and (selection[a] == selection[b] or selection[a] == "icl")
        and (most == 0 or shots[a] or shots[b])  # two zero-shot ones belong to no number of shots
    ]


def _test(table: pd.DataFrame, pairs: Sequence[tuple[int, int]]) -> pd.DataFrame:
    from scipy.stats import ttest_ind_from_stats

    a, b = np.array(pairs, dtype=int).reshape(-1, 2).T
    left, right = (table.iloc[places].reset_index(drop=True) for places in (a, b))
    numbers = [frame[name].to_numpy(float) for frame in (right, left) for name in ("mean", "sd", "runs")]
    spread = (numbers[1] > 0) | (numbers[4] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, p = ttest_ind_from_stats(*numbers, equal_var=False)
    out = left[["task", "headline", "higher_is_better"]].assign(
        shots=np.maximum(left["shots"], right["shots"]),
        selection=np.where(right["selection"] == "icl", left["selection"], right["selection"]),
        set=left["set"].astype(str),
    )
    of_groups = ("model", "weights", "method", "shots", "pattern", "differs", "context", "setting")
    names = (*of_groups, "precision", "rows", "mean", "sd", "runs", "ids")
    out = out.assign(**{f"{name}_{side}": frame[name] for side, frame in (("a", left), ("b", right)) for name in names})
    unlike = [apart(*pair) for pair in zip(left["row_digests"], right["row_digests"], strict=True)]
    out["other_rows"] = (left["rows"] != right["rows"]) | np.array(unlike, bool)
    out["other_precision"] = out["precision_a"].astype(str) != out["precision_b"].astype(str)
    return out.assign(difference=numbers[0] - numbers[3], t=np.where(spread, t, np.nan), p=np.where(spread, p, np.nan))
