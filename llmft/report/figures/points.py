"""The data of figures and page: a row for each run and selection, and a row for each group of runs that differ only in seeds;
and the looks and tooltips of their marks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from llmft.report.records.names import (
    EVALUATED,
    FINAL,
    GROUP,
    HEADINGS,
    METHOD_NAMES,
    in_order_of,
    is_zero_shot,
    method_name,
    rows_text,
    selection_name,
)

if TYPE_CHECKING:
    from llmft.report.records.collect import Collection

PER_RUN = ("training_cpu_s", "cpu_total_s", "rss_peak_bytes", "rss_mean_bytes", "gpu_peak_bytes", "gpu_mean_bytes")
PER_QUERY = ("tokens_per_query", "kv_bytes_per_query", "cpu_ms_per_query", "flops_per_query")
SIZE = re.compile(r"[-_.]?(?<![a-z0-9])(\d+(\.\d+)?[kmbt]|tiny|mini|small|base|medium|large|xl|xxl)(?![a-z0-9])", re.IGNORECASE)
"""The size in a model's name."""
NAMED = 500
"""With more runs than this, single runs have no tooltip: the page would be as large as all their records."""


class Look(NamedTuple):
    """A colour (hex) and matplotlib's name of a marker."""

    colour: str
    marker: str


ZERO_SHOT = "zero-shot"
DOCUMENT = " on documents"
"""End of the key of a method that was trained on documents."""
LOOKS = {
    ZERO_SHOT: Look("#7a7f87", "X"),
    "icl": Look("#0072b2", "o"),
    "pbft": Look("#d55e00", "s"),
    "pbft-lora": Look("#e69f00", "D"),
    "distill": Look("#009e73", "^"),
    "distill-lora": Look("#cc79a7", "v"),
}
"""Okabe and Ito's palette, distinguishable with all kinds of colour vision; markers differ as well."""
FURTHER = (
    *(Look(colour, "P") for colour in ("#56b4e9", "#332288", "#882255", "#999933")),
    *(Look(colour, "*") for colour in ("#44aa99", "#aa4499", "#661100", "#6699cc")),
)
"""For all other methods, in alphabetical order."""


def look_key(method: str, shots: float, context: str, on_document: bool) -> str:
    """The key of a look: the method, with separate keys for zero-shot in-context learning and for training on documents."""
    return ZERO_SHOT if is_zero_shot(method, shots, context) else method + DOCUMENT * on_document


def looks_of(keys: Iterable[str]) -> dict[str, Look]:
    """The look of each key, known ones first in the order of tables."""
    present = set(keys)
    others = sorted(present - LOOKS.keys())
    further = {key: FURTHER[place % len(FURTHER)] for place, key in enumerate(others)}
    return {key: look for key, look in LOOKS.items() if key in present} | further


def look_name(key: str) -> str:
    """The display name of a method."""
    method = key.removesuffix(DOCUMENT)
    return METHOD_NAMES.get(method, method) + key[len(method) :]


def family(model: str) -> str:
    """A model's name without its size, which models that differ only in size share."""
    folders, slash, last = model.rpartition("/")
    return folders + slash + SIZE.sub("", last, count=1)


def group_name(row: pd.Series) -> str:
    """The display name of a group within its task and model."""
    shots = f", {row['shots']:.0f} shots" if row["shots"] else ""
    return method_name(row.to_dict()) + shots + (f" ({row['differs']})" if row["differs"] else "")


def points(collection: Collection) -> pd.DataFrame:
    """Scores and costs, a row for each run and selection.

    Returns:
        All columns of `collection.runs`, `selection`, `in_domain`, `out_of_domain` and `test` (the run's headline metric, pooled
        over all rows of the sets), `rows_<domain>` (how many rows of which sets), `selected_<domain>` (whether the checkpoint was
        selected on these rows), `gap_recovered_<domain>`, `precision`, `PER_QUERY`, `look`, and `judged`: whether a method is
        judged by this selection (in-context learning itself, else the last step).
    """
    scores = collection.headline_scores().set_index(["id", "selection"])
    cells = {}
    for domain in EVALUATED:
        of_domain = scores[scores["set"] == domain]
        cells[domain], cells[f"gap_recovered_{domain}"] = of_domain["value"], of_domain["gap_recovered"]
        cells[f"selected_{domain}"] = of_domain["selected_on_evaluation_set"]
        texts = [rows_text(n, collection.sets[run][domain]) for (run, _), n in of_domain["n"].items()]
        cells[f"rows_{domain}"] = pd.Series(texts, of_domain.index, dtype=object)
    cells |= {name: scores.loc[scores["set"] == "in_domain", name] for name in PER_QUERY}
    cells["precision"] = scores.loc[~scores.index.duplicated(), "precision"]
    merged = collection.runs.merge(pd.DataFrame(cells).reset_index(), on="id", how="inner")
    chosen = [f"selected_{domain}" for domain in EVALUATED]
    merged[chosen] = merged[chosen].eq(True)  # sets that a run does not have selected nothing
    merged = merged.assign(
        **{name: math.nan for name in PER_RUN if name not in merged},
        judged=merged["selection"].isin(FINAL),
        look=[look_key(*of) for of in merged[["method", "shots", "context", "on_document"]].itertuples(index=False)],
    )
    return in_order_of(merged, looks_of(merged["look"]), "look", ["task", "weights", "model"], ["shots"])


def mean_points(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over the runs, rows of `points`, that differ only in seeds.

    Returns:
        `GROUP`, `context`, `higher_is_better`, `precision`, `selection`, `rows_<domain>`, `look`, `judged`, `name`; for each
        number its mean and `<number>_sd` (n - 1); `members`: the row labels of `runs` that were averaged.
    """
    of_domains = (f"selected_{domain}" for domain in EVALUATED)
    keys = [*GROUP, "context", "higher_is_better", "precision", "selection", "look", "judged", *of_domains]
    grouped = runs.groupby(keys, sort=False, dropna=False)
    numbers = ["weights", *EVALUATED, *(f"gap_recovered_{d}" for d in EVALUATED), *PER_QUERY, *PER_RUN]
    rows = grouped[[f"rows_{d}" for d in EVALUATED]].first()
    table = grouped[numbers].mean().join([grouped[numbers].std().add_suffix("_sd"), rows])
    table["members"] = pd.Series({key: list(rows) for key, rows in grouped.groups.items()}).to_numpy() if len(runs) else []
    table = table.reset_index()
    return table.assign(name=[group_name(row) for _, row in table.iterrows()])


def front(costs: pd.Series, scores: pd.Series, *, higher_is_better: bool = True) -> list:
    """The row labels of the Pareto front, cheapest first: rows that no other row beats in score at the same or a lower cost."""
    both = pd.DataFrame({"cost": costs, "score": scores if higher_is_better else -scores}).dropna()
    both = both.sort_values(["cost", "score"], ascending=[True, False], kind="stable")
    best = both["score"].cummax().shift(fill_value=-math.inf)
    return list(both.index[both["score"] > best])


def with_tips(judged: pd.DataFrame, means: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `points` and their groups, both with a column `tip`: for runs their group, id, seeds and scores, or "" if there are
    more than `NAMED`; for groups their name, task and selection, scores and number of runs."""
    several = [name for name in ("pattern", "model", "precision") if means[name].nunique() > 1]
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
    """A line for each domain that has a score, with its deviation if there is one."""
    lines = []
    for domain in EVALUATED:
        if pd.notna(row[domain]):
            spread = row.get(f"{domain}_sd")
            lines.append(f"\n{HEADINGS[domain]} {row[domain]:.3f}" + (f" ± {spread:.3f}" if pd.notna(spread) else ""))
    return "".join(lines)
