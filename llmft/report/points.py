"""What figures and page are drawn from: a row a run and selection, and a row a group of runs that differ in seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from llmft.report.names import DOMAINS, FINAL, METHOD_NAMES, method_name

if TYPE_CHECKING:
    from llmft.report.collect import Collection
    from llmft.report.paired import Answers

METRIC = "score_accuracy"
KEYS = ["task", "model", "weights", "method", "shots", "pattern", "setting", "differs"]
"""What runs of one group have in common; they differ in their seeds alone."""
PER_RUN = (
    "training_cpu_s",
    "cpu_user_s",
    "cpu_system_s",
    "cpu_total_s",
    "wall_s",
    "rss_peak_bytes",
    "rss_mean_bytes",
    "gpu_peak_bytes",
    "gpu_mean_bytes",
)
PER_QUERY = ("tokens_per_query", "cpu_ms_per_query", "flops_per_query")
SIZE = re.compile(r"[-_.]?(?<![a-z0-9])(\d+(\.\d+)?[kmbt]|tiny|mini|small|base|medium|large|xl|xxl)(?![a-z0-9])", re.IGNORECASE)
"""A model's size, as a part of its name."""
BESIDE = ("kl", "agreement")
"""Metrics shown next to accuracy, of the in-domain sets."""


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
    return SIZE.sub("", model, count=1)


def group_name(row: pd.Series) -> str:
    """A group as people say it, within its task and model."""
    shots = f", {row['shots']:.0f} shots" if row["shots"] else ""
    return method_name({**row, "differs": ""}) + shots + (f" ({row['differs']})" if row["differs"] else "")


def points(collection: Collection) -> pd.DataFrame:
    """Accuracies and costs, a row a run and selection.

    Returns:
        All columns of `collection.runs`, `selection`, `in_domain` and `out_of_domain` (accuracy over the label words, all rows
        of the sets pooled), `selected_<domain>` (whether these rows chose the checkpoint), `kl`, `agreement` (in-domain),
        `gap_recovered_<domain>`, `PER_QUERY`, `look`, and `judged`: whether a method is judged by this selection (in-context
        learning itself, else the last step).
    """
    scores = collection.scores
    found = scores[scores["set"].isin(DOMAINS) & scores["metric"].isin((METRIC, *BESIDE))].astype({"id": str, "selection": str})
    cells = {}
    for domain in DOMAINS:
        here = found[(found["set"] == domain) & (found["metric"] == METRIC)].set_index(["id", "selection"])
        cells[domain], cells[f"gap_recovered_{domain}"] = here["value"], here["gap_recovered"]
        cells[f"selected_{domain}"] = here["selected_on_evaluation_set"]
    inside = found[found["set"] == "in_domain"].set_index(["id", "selection"])
    cells |= {name: inside.loc[inside["metric"] == name, "value"] for name in BESIDE}
    cells |= {name: inside.loc[inside["metric"] == METRIC, name] for name in PER_QUERY}
    values = pd.DataFrame(cells)
    merged = collection.runs.merge(values.reset_index(), on="id", how="inner")
    chosen = [f"selected_{domain}" for domain in DOMAINS]
    merged[chosen] = merged[chosen].eq(True)  # where a run has no sets of a domain, they chose nothing
    for name in PER_RUN:
        if name not in merged:
            merged[name] = math.nan
    judged = merged["selection"].isin(FINAL)
    keys = [look_key(*pair) for pair in zip(merged["method"], merged["shots"], strict=True)]
    return _in_order(merged.assign(judged=judged, look=keys))


def groups(found: pd.DataFrame) -> pd.DataFrame:
    """Means over the runs that differ in seeds alone.

    Args:
        found: rows of `points`.

    Returns:
        `KEYS`, `selection`, `look`, `judged`, `name`; for each number its mean and `<number>_sd` (n - 1); `members`: the row
        labels of `found` that were averaged.
    """
    keys = [*KEYS, "selection", "look", "judged", *(f"selected_{domain}" for domain in DOMAINS)]
    grouped = found.groupby(keys, sort=False, dropna=False)
    numbers = [*DOMAINS, *(f"gap_recovered_{d}" for d in DOMAINS), "kl", "agreement", *PER_QUERY, *PER_RUN]
    means = grouped[numbers].mean()
    spreads = grouped[numbers].std().add_suffix("_sd")
    table = means.join(spreads).assign(
        members=pd.Series({k: list(v) for k, v in grouped.groups.items()}).to_numpy() if len(found) else []
    )
    table = table.reset_index()
    return table.assign(name=[group_name(row) for _, row in table.iterrows()])


def majority(collection: Collection, answers: Mapping[tuple[str, str], Answers]) -> pd.DataFrame:
    """What always answering the largest class would get.

    Args:
        answers: of `paired.read_answers`: confusion tables by run and domain.

    Returns:
        `task`, and the accuracy for each domain, of the first run of the task whose predictions could be read.
    """
    rates: dict[str, dict[str, float]] = {}
    for run, task in collection.runs[["id", "task"]].itertuples(index=False):
        for domain in DOMAINS:
            if domain not in rates.setdefault(task, {}) and (own := answers.get((run, domain))):
                rates[task][domain] = own.confusion.sum(axis=1).max() / own.confusion.sum()
    return pd.DataFrame([{"task": task, **dict.fromkeys(DOMAINS, math.nan), **found} for task, found in rates.items()])


def front(costs: pd.Series, accuracies: pd.Series) -> list:
    """The row labels of the Pareto front, cheapest first: what no other row beats in accuracy at the same or a lower cost."""
    both = pd.DataFrame({"cost": costs, "accuracy": accuracies}).dropna()
    both = both.sort_values(["cost", "accuracy"], ascending=[True, False], kind="stable")
    best = both["accuracy"].cummax().shift(fill_value=-math.inf)
    return list(both.index[both["accuracy"] > best])


def _in_order(found: pd.DataFrame) -> pd.DataFrame:
    place = {key: number for number, key in enumerate(looks_of(found["look"]))}
    order = found.assign(place=found["look"].map(place)).sort_values(
        ["task", "weights", "model", "place", "shots"], kind="stable"
    )
    return order.drop(columns="place").reset_index(drop=True)
