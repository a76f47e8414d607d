"""What figures and page are drawn from: a row a run and selection, and a row a group of runs that differ in seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from llmft.report.records.frames import in_order_of
from llmft.report.records.names import DOMAINS, FINAL, GROUP, METHOD_NAMES, method_name, rows_text

if TYPE_CHECKING:
    from llmft.report.records.collect import Collection
    from llmft.report.statistics.paired import Answers

METRIC = "score_accuracy"
PER_RUN = (
    "training_cpu_s",
    "cpu_total_s",
    "rss_peak_bytes",
    "rss_mean_bytes",
    "gpu_peak_bytes",
    "gpu_mean_bytes",
)
PER_QUERY = ("tokens_per_query", "cpu_ms_per_query", "flops_per_query")
SIZE = re.compile(r"[-_.]?(?<![a-z0-9])(\d+(\.\d+)?[kmbt]|tiny|mini|small|base|medium|large|xl|xxl)(?![a-z0-9])", re.IGNORECASE)
"""A model's size, as a part of its name."""
SAME = 1e-9
"""Shares closer than this are one."""
ROWS = tuple(f"rows_{domain}" for domain in DOMAINS)


class Look(NamedTuple):
    """How a method is drawn, everywhere: a colour (hex) and matplotlib's name of a marker."""

    colour: str
    marker: str


ZERO_SHOT = "zero-shot"
LOOKS = {
    ZERO_SHOT: Look("#7a7f87", "X"),
    "icl": Look("#0072b2", "o"),
    "pbft": Look("#d55e00", "s"),
    "pbft-lora": Look("#e69f00", "D"),
    "distill": Look("#009e73", "^"),
    "distill-lora": Look("#cc79a7", "v"),
}
"""Okabe and Ito's palette, told apart with all kinds of colour vision; markers differ as well."""
FURTHER = (
    *(Look(colour, "P") for colour in ("#56b4e9", "#332288", "#882255", "#999933")),
    *(Look(colour, "*") for colour in ("#44aa99", "#aa4499", "#661100", "#6699cc")),
)
"""For all other methods, in the order of their names."""


def look_key(method: str, shots: float) -> str:
    """What has a look of its own: the method, and in-context learning without demonstrations."""
    return ZERO_SHOT if method == "icl" and not shots else method


def looks_of(keys: Iterable[str]) -> dict[str, Look]:
    """The look of each, known ones first in the order of tables."""
    found = set(keys)
    others = sorted(found - LOOKS.keys())
    further = {key: FURTHER[place % len(FURTHER)] for place, key in enumerate(others)}
    return {key: look for key, look in LOOKS.items() if key in found} | further


def look_name(key: str) -> str:
    """A method as people say it."""
    return METHOD_NAMES.get(key, key)


def family(model: str) -> str:
    """A model's name without its size: what models that differ in size alone have in common."""
    folders, slash, last = model.rpartition("/")
    return folders + slash + SIZE.sub("", last, count=1)


def group_name(row: pd.Series) -> str:
    """A group as people say it, within its task and model."""
    shots = f", {row['shots']:.0f} shots" if row["shots"] else ""
    return method_name({**row, "differs": ""}) + shots + (f" ({row['differs']})" if row["differs"] else "")


def points(collection: Collection) -> pd.DataFrame:
    """Accuracies and costs, a row a run and selection.

    Returns:
        All columns of `collection.runs`, `selection`, `in_domain` and `out_of_domain` (accuracy over the label words, all rows
        of the sets pooled), `rows_<domain>` (how many of which sets), `selected_<domain>` (whether these rows chose the
        checkpoint), `gap_recovered_<domain>`, `PER_QUERY`, `look`, and `judged`: whether a method is judged by this selection
        (in-context learning itself, else the last step).
    """
    scores = collection.scores
    found = scores[scores["set"].isin(DOMAINS) & (scores["metric"] == METRIC)].astype({"id": str, "selection": str})
    cells = {}
    for domain in DOMAINS:
        here = found[found["set"] == domain].set_index(["id", "selection"])
        cells[domain], cells[f"gap_recovered_{domain}"] = here["value"], here["gap_recovered"]
        cells[f"selected_{domain}"] = here["selected_on_evaluation_set"]
        texts = [rows_text(n, collection.sets[run][domain]) for (run, _), n in here["n"].items()]
        cells[f"rows_{domain}"] = pd.Series(texts, here.index, dtype=object)
    inside = found[found["set"] == "in_domain"].set_index(["id", "selection"])
    cells |= {name: inside[name] for name in PER_QUERY}
    values = pd.DataFrame(cells)
    merged = collection.runs.merge(values.reset_index(), on="id", how="inner")
    chosen = [f"selected_{domain}" for domain in DOMAINS]
    merged[chosen] = merged[chosen].eq(True)  # where a run has no sets of a domain, they chose nothing
    for name in PER_RUN:
        if name not in merged:
            merged[name] = math.nan
    judged = merged["selection"].isin(FINAL)
    keys = [look_key(*pair) for pair in zip(merged["method"], merged["shots"], strict=True)]
    merged = merged.assign(judged=judged, look=keys)
    return in_order_of(merged, looks_of(keys), "look", ["task", "weights", "model"], ["shots"])


def groups(found: pd.DataFrame) -> pd.DataFrame:
    """Means over the runs that differ in seeds alone.

    Args:
        found: rows of `points`.

    Returns:
        `GROUP`, `selection`, `rows_<domain>`, `look`, `judged`, `name`; for each number its mean and `<number>_sd` (n - 1);
        `members`: the row labels of `found` that were averaged.
    """
    keys = [*GROUP, "selection", "look", "judged", *(f"selected_{domain}" for domain in DOMAINS)]
    grouped = found.groupby(keys, sort=False, dropna=False)
    numbers = ["weights", *DOMAINS, *(f"gap_recovered_{d}" for d in DOMAINS), *PER_QUERY, *PER_RUN]
    means = grouped[numbers].mean()
    spreads = grouped[numbers].std().add_suffix("_sd")
    table = means.join([spreads, grouped[list(ROWS)].first()]).assign(
        members=pd.Series({k: list(v) for k, v in grouped.groups.items()}).to_numpy() if len(found) else []
    )
    table = table.reset_index()
    return table.assign(name=[group_name(row) for _, row in table.iterrows()])


def majority_of_runs(collection: Collection, answers: Mapping[tuple[str, str], Answers]) -> pd.DataFrame:
    """The runs with `majority_<domain>`: what always answering the largest class of a run's own rows would get.

    Of a domain with one set the record says it; of several taken together, and in older records, the labels beside the
    predictions do.

    Args:
        answers: of `paired.read_answers`: confusion tables by run and domain.
    """
    runs = collection.runs.copy()
    for domain in DOMAINS:
        name = f"majority_{domain}"
        runs[name] = [
            _largest(own) if pd.isna(rate) and (own := answers.get((run, domain))) else rate
            for run, rate in zip(runs["id"], runs[name], strict=True)
        ]
    return runs


def _largest(answers: Answers) -> float:
    return answers.confusion.sum(axis=1).max() / answers.confusion.sum()


def majority(runs: pd.DataFrame) -> pd.DataFrame:
    """What always answering the largest class would get, where that is one number for all runs of a task.

    Args:
        runs: of `majority_of_runs`.

    Returns:
        `task`, and the accuracy for each domain, NaN where the runs of the task were asked rows with other shares.
    """
    rates = runs.groupby("task", sort=False)[[f"majority_{domain}" for domain in DOMAINS]]
    one = rates.mean().where(rates.max() - rates.min() < SAME)
    return one.set_axis(list(DOMAINS), axis=1).dropna(how="all").reset_index()


def front(costs: pd.Series, accuracies: pd.Series) -> list:
    """The row labels of the Pareto front, cheapest first: what no other row beats in accuracy at the same or a lower cost."""
    both = pd.DataFrame({"cost": costs, "accuracy": accuracies}).dropna()
    both = both.sort_values(["cost", "accuracy"], ascending=[True, False], kind="stable")
    best = both["accuracy"].cummax().shift(fill_value=-math.inf)
    return list(both.index[both["accuracy"] > best])
