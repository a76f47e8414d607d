"""What needs the answers to single rows: which rows were asked, McNemar's test of two runs, and the confusion tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from llmft.report.records.collect import ANSWERS, Collection, read_predictions
from llmft.report.records.names import DOMAINS, FINAL, GROUP, SELECTIONS
from llmft.report.records.pool import Workers

STAGES = {selection: stage for stage, selection in SELECTIONS.items() if selection in FINAL}


@dataclass(frozen=True)
class Answers:
    """What one run's final stage answered to the sets of one domain.

    Attributes:
        rows: tells the evaluation rows, by their idx, labels and order, from others.
        right: (N,) whether each answer was right.
        confusion: (L, L) how many rows of each label (first axis) got each answer.
    """

    rows: bytes
    right: np.ndarray
    confusion: np.ndarray


def read_answers(
    collection: Collection, runs: Sequence[str], workers: Workers | None = None
) -> Callable[[], tuple[dict[tuple[str, str], Answers], list[tuple[str, str]]]]:
    """Begin to read the answers of some runs; what is returned waits for them.

    Args:
        workers: who read them; None for this process, which does so when they are waited for.

    Returns:
        A function that gives the answers by id and domain; and which predictions could not be read, with the reason.
    """
    asked = [(run, collection.places[run], collection.sets[run]) for run in runs]
    parts = (workers or Workers()).in_parts(_read_part, asked)

    def wait() -> tuple[dict[tuple[str, str], Answers], list[tuple[str, str]]]:
        found: dict[tuple[str, str], Answers] = {}
        missing: list[tuple[str, str]] = []
        for part in parts:
            for run, answers in part:
                if isinstance(answers, OSError):
                    missing.append((run, f"predictions.parquet cannot be read ({answers.strerror or answers})"))
                else:
                    found |= {(run, domain): own for domain, own in answers.items()}
        return found, missing

    return wait


def _read_part(
    asked: Sequence[tuple[str, Path, Mapping[str, Sequence[str]]]],
) -> list[tuple[str, dict[str, Answers] | OSError]]:
    def read(record: Path, sets: Mapping[str, Sequence[str]]) -> dict[str, Answers] | OSError:
        try:
            return _answers_of(record, sets)
        except OSError as error:
            return error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            return OSError(f"{type(error).__name__}: {error}")

    return [(run, read(record, sets)) for run, record, sets in asked]


def _answers_of(record: Path, in_domains: Mapping[str, Sequence[str]]) -> dict[str, Answers]:
    table = read_predictions(record, ANSWERS)
    if not len(table):
        raise OSError("it has no rows")
    if table.column("stage").num_chunks != 1:
        table = table.unify_dictionaries().combine_chunks()
    stages, sets = (table.column(name).chunk(0) for name in ("stage", "set"))
    stage_names, set_names = stages.dictionary.to_pylist(), sets.dictionary.to_pylist()
    stage = next((name for name in STAGES.values() if name in stage_names), None)
    if stage is None:
        return {}
    here = np.flatnonzero(stages.indices.to_numpy() == stage_names.index(stage))
    idx, labels, predictions = (table.column(name).to_numpy()[here] for name in ("idx", "label", "prediction"))
    numbers, found = sets.indices.to_numpy()[here], {}
    for domain in DOMAINS:
        names = [name for name in in_domains.get(domain, ()) if name in set_names]
        if not names:
            continue
        chosen = np.logical_or.reduce([numbers == set_names.index(name) for name in names])
        own, given = labels[chosen], predictions[chosen]
        if not chosen.any():  # this stage was not asked these sets
            continue
        size = int(max(own.max(), given.max(), 1)) + 1
        confusion = np.bincount(own * size + given, minlength=size * size).reshape(size, size)
        place = np.full(len(set_names), -1, np.int8)  # by name: the file's own numbers depend on what else is in it
        place[[set_names.index(name) for name in sorted(names)]] = range(len(names))
        rows = _digest(*map(str.encode, sorted(names)), place[numbers[chosen]].tobytes(), _bytes(idx[chosen]), own.tobytes())
        found[domain] = Answers(rows, own == given, confusion)
    return found


def _digest(*parts: bytes) -> bytes:
    """The same for the same parts, whichever process asks."""
    return blake2b(b"\0".join(parts), digest_size=16).digest()


def _bytes(idx: np.ndarray) -> bytes:
    return idx.tobytes() if idx.dtype != object else "\0".join(map(str, idx)).encode()


def asked_unlike(runs: pd.DataFrame, answers: Mapping[tuple[str, str], Answers]) -> set[tuple[str, str]]:
    """The tasks and domains with two groups of runs of which no run of the one answered the same rows as a run of the other.

    Runs of one group may each have rows of their own: some tasks draw them by the data seed. Rows that cannot be read are taken
    for the same.
    """
    known: dict[tuple[str, str], set[frozenset[bytes]]] = defaultdict(set)
    for (task, *_), ids in runs.groupby(list(GROUP), sort=False, dropna=False)["id"]:
        for domain in DOMAINS:
            known[task, domain].add(_rows(ids, domain, answers))
    return {key for key, found in known.items() if any(_apart(*pair) for pair in combinations(found, 2))}


def with_other_rows(
    pairs: pd.DataFrame,
    answers: Mapping[tuple[str, str], Answers],
    unlike: Container[tuple[str, str]],
    *,
    sides: tuple[str, str] = ("ids_a", "ids_b"),
    domain: str | None = None,
) -> pd.DataFrame:
    """Pairs of groups of runs, with `other_rows` also true where both answered other rows, if as many.

    Args:
        unlike: of `asked_unlike`: where there are such pairs. As a rule there are none, and nothing is to do.
        sides: the columns of the groups' ids.
        domain: what the pairs are about; None: their column `set` says it.
    """
    sets = pairs["set"] if domain is None else [domain] * len(pairs)
    apart = [
        (task, name) in unlike and _apart(_rows(one, name, answers), _rows(other, name, answers))
        for task, name, one, other in zip(pairs["task"], sets, pairs[sides[0]], pairs[sides[1]], strict=True)
    ]
    return pairs.assign(other_rows=pairs["other_rows"].to_numpy(bool) | np.array(apart, bool))


def _rows(runs: Iterable[str], domain: str, answers: Mapping[tuple[str, str], Answers]) -> frozenset[bytes]:
    return frozenset(answers[run, domain].rows for run in runs if (run, domain) in answers)


def _apart(one: frozenset[bytes], other: frozenset[bytes]) -> bool:
    return bool(one and other) and one.isdisjoint(other)


def mcnemar(pairs: pd.DataFrame, collection: Collection, answers: Mapping[tuple[str, str], Answers]) -> pd.DataFrame:
    """McNemar's exact test on the runs of two groups that share data seed and evaluation rows (McNemar 1947).

    Args:
        pairs: groups to compare, as `statistics.welch` returns them.

    Returns:
        A row for each pair of runs: the pair's `task`, `shots`, `set`, `method_a`, `setting_a`, ...; `data_seed`, `id_a`, `id_b`,
        `n`, `only_a` and `only_b` (rows that one alone got right) and `p` (two-sided: how likely so uneven a split of these is
        where both are as good).
    """
    seeds = {row.id: (row.seed, row.data_seed) for row in collection.runs[["id", "seed", "data_seed"]].itertuples()}
    found = []
    final = pairs[pairs["selection"].isin(FINAL)]
    for place, ids_a, ids_b, domain in zip(final.index, final["ids_a"], final["ids_b"], final["set"], strict=True):
        for a, b in _same_draws(ids_a, ids_b, seeds):
            one, other = answers.get((a, domain)), answers.get((b, domain))
            if one is not None and other is not None and one.rows == other.rows:
                only_a, only_b = np.count_nonzero(one.right & ~other.right), np.count_nonzero(other.right & ~one.right)
                found.append((place, seeds[b][1], a, b, len(one.right), only_a, only_b))
    columns = ["place", "data_seed", "id_a", "id_b", "n", "only_a", "only_b"]
    table = pd.DataFrame(found, columns=columns)
    table["p"] = exact_p(table["only_a"].to_numpy(int), table["only_b"].to_numpy(int))
    names = [
        c
        for c in final.columns
        if c in ("task", "shots", "set") or c[:-2] in ("model", "method", "differs", "pattern", "setting", "shots")
    ]
    return final[names].loc[table["place"]].reset_index(drop=True).join(table.drop(columns="place"))


def exact_p(only_a: np.ndarray, only_b: np.ndarray) -> np.ndarray:
    """What `scipy.stats.binomtest(only_a, only_a + only_b)` says, for many at once: (N,) two-sided p, 1 where both are 0."""
    from scipy.stats import binom

    return np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def _same_draws(ids_a: Sequence[str], ids_b: Sequence[str], seeds: Mapping[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """Each run of b with the run of a of its data seed: the one of its own seed if there is one, else the lowest."""
    by_draw: dict[int, dict[int, str]] = {}
    for a in ids_a:
        seed, data_seed = seeds[a]
        by_draw.setdefault(data_seed, {})[seed] = a
    found = []
    for b in ids_b:
        seed, data_seed = seeds[b]
        if data_seed in by_draw:
            same = by_draw[data_seed]
            found.append((same.get(seed, same[min(same)]), b))
    return found
