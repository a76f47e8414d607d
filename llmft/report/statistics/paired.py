"""Paired tests of two runs, row by row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from llmft.report.records.collect import Collection
from llmft.report.records.names import FINAL

MCNEMAR, WILCOXON = "McNemar", "Wilcoxon"


def paired_tests(pairs: pd.DataFrame, collection: Collection) -> pd.DataFrame:
    """Tests of the runs of two groups that share data seed and evaluation rows, row by row.

    McNemar's exact test if every score is 0 or 1 (McNemar 1947), else Wilcoxon's signed-rank test of the scores (1945).

    Args:
        pairs: groups to compare, as `summary.welch` returns them.

    Returns:
        A row for each pair of runs: the pair's `task`, `shots`, `set`, `method_a`, `setting_a`, ...; `data_seed`, `id_a`, `id_b`,
        `n`, `only_a` and `only_b` (rows on which only that one did better), `difference` (of mean scores, b - a), `test` and `p`
        (two-sided).
    """
    runs, results = collection.runs.set_index("id"), []
    seeds = dict(zip(runs.index, zip(runs["seed"], runs["data_seed"], strict=True), strict=True))
    higher_is_better = runs["higher_is_better"].to_dict()
    final = pairs[pairs["selection"].isin(FINAL)]
    for place, ids_a, ids_b, domain in zip(final.index, final["ids_a"], final["ids_b"], final["set"], strict=True):
        for a, b in _same_draws(ids_a, ids_b, seeds):
            one, other = (collection.row_scores.get((run, domain)) for run in (a, b))
            if one is not None and other is not None and one.rows == other.rows:
                better = only_better(one.scores, other.scores, higher_is_better[a])
                binary = one.scores.dtype == other.scores.dtype == bool
                test = (MCNEMAR, np.nan) if binary else (WILCOXON, wilcoxon_p(one.scores, other.scores))
                difference = other.scores.mean() - one.scores.mean()
                results.append((place, seeds[b][1], a, b, len(one.scores), *better, difference, *test))
    columns = ["place", "data_seed", "id_a", "id_b", "n", "only_a", "only_b", "difference", "test", "p"]
    table = pd.DataFrame(results, columns=columns)
    exact = table["test"] == MCNEMAR  # all at once
    table.loc[exact, "p"] = mcnemar_p(*(table.loc[exact, name].to_numpy(int) for name in ("only_a", "only_b")))
    names = ["task", "headline", "higher_is_better", "shots", "set"]
    of_sides = ("model", "method", "shots", "pattern", "differs", "context", "setting")
    names += [f"{name}_{side}" for side in "ab" for name in of_sides]
    return final[names].loc[table["place"]].reset_index(drop=True).join(table.drop(columns="place"))


def only_better(one: np.ndarray, other: np.ndarray, higher_is_better: bool) -> tuple[int, int]:
    """The numbers of rows on which the one, and the other, did better."""
    high = np.count_nonzero(one > other), np.count_nonzero(other > one)
    return high if higher_is_better else high[::-1]


def mcnemar_p(only_a: np.ndarray, only_b: np.ndarray) -> np.ndarray:
    """The result of `scipy.stats.binomtest(only_a, only_a + only_b)` for many at once: (N,) two-sided p, 1 if both are 0."""
    from scipy.stats import binom

    return np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def wilcoxon_p(one: np.ndarray, other: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of scores, both (N,); 1 if they are the same."""
    from scipy.stats import wilcoxon

    differences = np.asarray(one, float) - np.asarray(other, float)
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _same_draws(ids_a: Sequence[str], ids_b: Sequence[str], seeds: Mapping[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """Each run of b with the run of a that has its data seed and seed; where one of the groups has a single run with this data
    seed, as in-context learning has, the seeds may differ, and the lowest of a is taken."""
    by_draw: dict[int, dict[int, str]] = defaultdict(dict)
    for a in ids_a:
        seed, data_seed = seeds[a]
        by_draw[data_seed][seed] = a
    repeated = Counter(seeds[b][1] for b in ids_b)
    pairs = []
    for b in ids_b:
        seed, data_seed = seeds[b]
        same = by_draw.get(data_seed, {})
        if seed in same:
            pairs.append((same[seed], b))
        elif same and 1 in (len(same), repeated[data_seed]):
            pairs.append((same[min(same)], b))
    return pairs
