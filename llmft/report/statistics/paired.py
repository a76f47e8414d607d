"""Statistics of single rows: which rows runs were evaluated on, paired tests of two runs, and confusion tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from llmft.report.records.collect import Collection, read_predictions
from llmft.report.records.find import UNUSABLE
from llmft.report.records.names import DOMAINS, FINAL, FINAL_STAGES, GROUP
from llmft.report.records.pool import Workers

MCNEMAR, WILCOXON = "McNemar", "Wilcoxon"


@dataclass(frozen=True)
class RowScores:
    """How one run's final stage did on the rows of one domain's sets.

    Attributes:
        rows: tells the evaluation rows, by their idx, targets and order, from others.
        scores: (N,) the headline of each row; a bool array where all are 0 or 1.
        confusion: (L, L) how many rows of each label (first axis) got each answer; None where targets are no labels.
    """

    rows: bytes
    scores: np.ndarray
    confusion: np.ndarray | None


RunScores = Mapping[tuple[str, str], RowScores]
"""By run and domain."""


def read_row_scores(
    collection: Collection, runs: Sequence[str], workers: Workers | None = None
) -> Callable[[], tuple[dict[tuple[str, str], RowScores], list[tuple[str, str]]]]:
    """Begin to read the rows' scores of some runs; what is returned waits for them.

    Args:
        workers: who read them; None for this process, which does so when they are waited for.

    Returns:
        A function that gives the scores by id and domain; and which predictions could not be read, with the reason.
    """
    parts = (workers or Workers()).in_parts(_read_part, [(run, collection.places[run], collection.sets[run]) for run in runs])

    def wait() -> tuple[dict[tuple[str, str], RowScores], list[tuple[str, str]]]:
        scores: dict[tuple[str, str], RowScores] = {}
        missing: list[tuple[str, str]] = []
        for run, result in (pair for part in parts for pair in part):
            if isinstance(result, str):
                missing.append((run, result))
            else:
                scores |= {(run, domain): of_domain for domain, of_domain in result.items()}
        return scores, missing

    return wait


def _read_part(
    runs: Sequence[tuple[str, Path, Mapping[str, Sequence[str]]]],
) -> list[tuple[str, dict[str, RowScores] | str]]:
    """Each run with its scores by domain, or the reason why it has none."""
    results: list[tuple[str, dict[str, RowScores] | str]] = []
    for run, record, sets in runs:
        try:
            results.append((run, _row_scores(record, sets)))
        except OSError as error:
            results.append((run, f"predictions.parquet cannot be read ({error.strerror or error})"))
        except UNUSABLE as error:
            results.append((run, f"predictions.parquet cannot be read ({type(error).__name__}: {error})"))
    return results


def _row_scores(record: Path, groups: Mapping[str, Sequence[str]]) -> dict[str, RowScores]:
    table, of_labels = read_predictions(record)
    if not len(table):
        raise OSError("it has no rows")
    table = table.unify_dictionaries().combine_chunks()
    stages, sets = (table.column(name).chunk(0) for name in ("stage", "set"))
    stage_names, set_names = stages.dictionary.to_pylist(), sets.dictionary.to_pylist()
    stage = next((name for name in FINAL_STAGES if name in stage_names), None)
    if stage is None:
        return {}
    final = np.flatnonzero(stages.indices.to_numpy() == stage_names.index(stage))
    columns = {name: table.column(name).to_numpy()[final] for name in ("idx", "target", "prediction", "score")}
    numbers, results = sets.indices.to_numpy()[final], {}
    for domain in DOMAINS:
        place = np.full(len(set_names), -1, np.int8)  # by name: the file's own numbers depend on what else is in it
        names = sorted(name for name in groups.get(domain, ()) if name in set_names)
        place[[set_names.index(name) for name in names]] = range(len(names))
        places = place[numbers]
        if (places >= 0).any():  # else this stage was not asked these sets
            chosen = {name: values[places >= 0] for name, values in columns.items()}
            parts = *map(str.encode, names), places[places >= 0].tobytes(), _bytes(chosen["idx"]), _bytes(chosen["target"])
            rows = blake2b(b"\0".join(parts), digest_size=16).digest()  # the same in every process
            confusion = _confusion(chosen["target"], chosen["prediction"]) if of_labels else None
            results[domain] = RowScores(rows, compact(chosen["score"]), confusion)
    return results


def _bytes(values: np.ndarray) -> bytes:
    return values.tobytes() if values.dtype != object else "\0".join(map(str, values)).encode()


def compact(scores: np.ndarray) -> np.ndarray:
    """Scores, as bool where all are 0 or 1.

    Raises:
        ValueError: one is no finite number.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score is no finite number")
    right = scores.astype(bool)
    return right if (right == scores).all() else scores


def _confusion(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    size = int(max(labels.max(), predictions.max(), 1)) + 1
    return np.bincount(labels * size + predictions, minlength=size * size).reshape(size, size)


def tasks_with_other_rows(runs: pd.DataFrame, scores: RunScores) -> set[tuple[str, str]]:
    """The tasks and domains with two groups of runs of which no run of the one has the evaluation rows of a run of the other.

    Runs of one group may each have rows of their own: some tasks draw them by the data seed. Rows that cannot be read are taken
    for the same.
    """
    groups: dict[tuple[str, str], set[frozenset[bytes]]] = defaultdict(set)
    for (task, *_), ids in runs.groupby(list(GROUP), sort=False, dropna=False)["id"]:
        for domain in DOMAINS:
            groups[task, domain].add(_rows(ids, domain, scores))
    return {key for key, rows in groups.items() if any(_apart(*pair) for pair in combinations(rows, 2))}


def with_other_rows(
    pairs: pd.DataFrame,
    scores: RunScores,
    tasks: Container[tuple[str, str]],
    *,
    sides: tuple[str, str] = ("ids_a", "ids_b"),
    domain: str | None = None,
) -> pd.DataFrame:
    """Pairs of groups of runs, with `other_rows` also true where both were evaluated on other rows, if as many.

    Args:
        tasks: of `tasks_with_other_rows`: where there are such pairs. As a rule there are none, and nothing is to do.
        sides: the columns of the groups' ids.
        domain: what the pairs are about; None: it is in their column `set`.
    """
    sets = pairs["set"] if domain is None else [domain] * len(pairs)
    apart = [
        (task, name) in tasks and _apart(_rows(one, name, scores), _rows(other, name, scores))
        for task, name, one, other in zip(pairs["task"], sets, pairs[sides[0]], pairs[sides[1]], strict=True)
    ]
    return pairs.assign(other_rows=pairs["other_rows"].to_numpy(bool) | np.array(apart, bool))


def _rows(runs: Iterable[str], domain: str, scores: RunScores) -> frozenset[bytes]:
    return frozenset(scores[run, domain].rows for run in runs if (run, domain) in scores)


def _apart(one: frozenset[bytes], other: frozenset[bytes]) -> bool:
    return bool(one and other) and one.isdisjoint(other)


def paired_tests(pairs: pd.DataFrame, collection: Collection, scores: RunScores) -> pd.DataFrame:
    """Tests of the runs of two groups that share data seed and evaluation rows, row by row.

    McNemar's exact test where every score is 0 or 1 (McNemar 1947), else Wilcoxon's signed-rank test of the scores (1945).

    Args:
        pairs: groups to compare, as `summary.welch` returns them.

    Returns:
        A row for each pair of runs: the pair's `task`, `shots`, `set`, `method_a`, `setting_a`, ...; `data_seed`, `id_a`, `id_b`,
        `n`, `only_a` and `only_b` (rows on which one alone did better), `difference` (of mean scores, b - a), `test` and `p`
        (two-sided).
    """
    runs = collection.runs.set_index("id")
    seeds = dict(zip(runs.index, zip(runs["seed"], runs["data_seed"], strict=True), strict=True))
    higher_is_better = runs["higher_is_better"].to_dict()
    results = []
    final = pairs[pairs["selection"].isin(FINAL)]
    for place, ids_a, ids_b, domain in zip(final.index, final["ids_a"], final["ids_b"], final["set"], strict=True):
        for a, b in _same_draws(ids_a, ids_b, seeds):
            one, other = scores.get((a, domain)), scores.get((b, domain))
            if one is not None and other is not None and one.rows == other.rows:
                better = only_better(one.scores, other.scores, higher_is_better[a])
                binary = one.scores.dtype == other.scores.dtype == bool
                test = (MCNEMAR, np.nan) if binary else (WILCOXON, wilcoxon_p(one.scores, other.scores))
                difference = other.scores.mean() - one.scores.mean()
                results.append((place, seeds[b][1], a, b, len(one.scores), *better, difference, *test))
    columns = ["place", "data_seed", "id_a", "id_b", "n", "only_a", "only_b", "difference", "test", "p"]
    table = pd.DataFrame(results, columns=columns)
    exact = table["test"] == MCNEMAR  # many at once
    table.loc[exact, "p"] = mcnemar_p(*(table.loc[exact, name].to_numpy(int) for name in ("only_a", "only_b")))
    names = ["task", "headline", "higher_is_better", "shots", "set"]
    names += [f"{name}_{side}" for side in "ab" for name in ("model", "method", "shots", "pattern", "differs", "setting")]
    return final[names].loc[table["place"]].reset_index(drop=True).join(table.drop(columns="place"))


def only_better(one: np.ndarray, other: np.ndarray, higher_is_better: bool) -> tuple[int, int]:
    """On how many rows the one, and the other, alone did better."""
    high = np.count_nonzero(one > other), np.count_nonzero(other > one)
    return high if higher_is_better else high[::-1]


def mcnemar_p(only_a: np.ndarray, only_b: np.ndarray) -> np.ndarray:
    """What `scipy.stats.binomtest(only_a, only_a + only_b)` says, for many at once: (N,) two-sided p, 1 where both are 0."""
    from scipy.stats import binom

    return np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def wilcoxon_p(one: np.ndarray, other: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of scores, both (N,); 1 where they are the same."""
    from scipy.stats import wilcoxon

    differences = np.asarray(one, float) - np.asarray(other, float)
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _same_draws(ids_a: Sequence[str], ids_b: Sequence[str], seeds: Mapping[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """Each run of b with the run of a of its data seed: the one of its own seed if there is one, else the lowest."""
    by_draw: dict[int, dict[int, str]] = defaultdict(dict)
    for a in ids_a:
        seed, data_seed = seeds[a]
        by_draw[data_seed][seed] = a
    pairs = []
    for b in ids_b:
        seed, data_seed = seeds[b]
        if same := by_draw.get(data_seed):
            pairs.append((same.get(seed, same[min(same)]), b))
    return pairs
