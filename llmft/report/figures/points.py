"""What figures and page are drawn from: a row a run and selection, and a row a group of runs that differ in seeds."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.figures.looks import look_key, looks_of
from llmft.report.records.frames import in_order_of
from llmft.report.records.names import DOMAINS, FINAL, GROUP, method_name, rows_text

if TYPE_CHECKING:
    from llmft.report.records.collect import Collection

PER_RUN = ("training_cpu_s", "cpu_total_s", "rss_peak_bytes", "rss_mean_bytes", "gpu_peak_bytes", "gpu_mean_bytes")
PER_QUERY = ("tokens_per_query", "cpu_ms_per_query", "flops_per_query")
SIZE = re.compile(r"[-_.]?(?<![a-z0-9])(\d+(\.\d+)?[kmbt]|tiny|mini|small|base|medium|large|xl|xxl)(?![a-z0-9])", re.IGNORECASE)
"""A model's size, as a part of its name."""


def family(model: str) -> str:
    """A model's name without its size: what models that differ in size alone have in common."""
    folders, slash, last = model.rpartition("/")
    return folders + slash + SIZE.sub("", last, count=1)


def group_name(row: pd.Series) -> str:
    """A group as people say it, within its task and model."""
    shots = f", {row['shots']:.0f} shots" if row["shots"] else ""
    return method_name({**row, "differs": ""}) + shots + (f" ({row['differs']})" if row["differs"] else "")


def points(collection: Collection) -> pd.DataFrame:
    """Scores and costs, a row a run and selection.

    Returns:
        All columns of `collection.runs`, `selection`, `in_domain` and `out_of_domain` (the headline of the run, all rows
        of the sets pooled), `rows_<domain>` (how many of which sets), `selected_<domain>` (whether these rows chose the
        checkpoint), `gap_recovered_<domain>`, `PER_QUERY`, `look`, and `judged`: whether a method is judged by this selection
        (in-context learning itself, else the last step).
    """
    scores = collection.headline_scores().set_index(["id", "selection"])
    cells = {}
    for domain in DOMAINS:
        of_domain = scores[scores["set"] == domain]
        cells[domain], cells[f"gap_recovered_{domain}"] = of_domain["value"], of_domain["gap_recovered"]
        cells[f"selected_{domain}"] = of_domain["selected_on_evaluation_set"]
        texts = [rows_text(n, collection.sets[run][domain]) for (run, _), n in of_domain["n"].items()]
        cells[f"rows_{domain}"] = pd.Series(texts, of_domain.index, dtype=object)
    cells |= {name: scores.loc[scores["set"] == "in_domain", name] for name in PER_QUERY}
    merged = collection.runs.merge(pd.DataFrame(cells).reset_index(), on="id", how="inner")
    chosen = [f"selected_{domain}" for domain in DOMAINS]
    merged[chosen] = merged[chosen].eq(True)  # where a run has no sets of a domain, they chose nothing
    merged = merged.assign(
        **{name: math.nan for name in PER_RUN if name not in merged},
        judged=merged["selection"].isin(FINAL),
        look=[look_key(*pair) for pair in zip(merged["method"], merged["shots"], strict=True)],
    )
    return in_order_of(merged, looks_of(merged["look"]), "look", ["task", "weights", "model"], ["shots"])


def groups(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over the runs that differ in seeds alone.

    Args:
        runs: rows of `points`.

    Returns:
        `GROUP`, `higher_is_better`, `selection`, `rows_<domain>`, `look`, `judged`, `name`; for each number its mean and
        `<number>_sd` (n - 1); `members`: the row labels of `runs` that were averaged.
    """
    keys = [*GROUP, "higher_is_better", "selection", "look", "judged", *(f"selected_{domain}" for domain in DOMAINS)]
    grouped = runs.groupby(keys, sort=False, dropna=False)
    numbers = ["weights", *DOMAINS, *(f"gap_recovered_{d}" for d in DOMAINS), *PER_QUERY, *PER_RUN]
    table = (
        grouped[numbers].mean().join([grouped[numbers].std().add_suffix("_sd"), grouped[[f"rows_{d}" for d in DOMAINS]].first()])
    )
    table["members"] = pd.Series({key: list(rows) for key, rows in grouped.groups.items()}).to_numpy() if len(runs) else []
    table = table.reset_index()
    return table.assign(name=[group_name(row) for _, row in table.iterrows()])


def front(costs: pd.Series, scores: pd.Series, *, higher_is_better: bool = True) -> list:
    """The row labels of the Pareto front, cheapest first: what no other row beats in score at the same or a lower cost."""
    both = pd.DataFrame({"cost": costs, "score": scores if higher_is_better else -scores}).dropna()
    both = both.sort_values(["cost", "score"], ascending=[True, False], kind="stable")
    best = both["score"].cummax().shift(fill_value=-math.inf)
    return list(both.index[both["score"] > best])
