"""Names of methods, selections, metrics and domains, their order in tables, and rows of frames as dicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

METHOD_NAMES = {
    name + tail: text + more
    for name, text in (
        ("icl", "in-context"), ("pbft", "fine-tuning"), ("vanilla", "fine-tuning, new head"), ("distill", "distillation"),
        ("pseudo-label", "pseudo-labels"), ("gold-label", "gold labels"),
    )
    for tail, more in (("", ""), ("-lora", ", LoRA"))
}  # fmt: skip
"""Display names of methods, in the order of tables; others keep the record's name and come last."""
SELECTIONS = {"after": "last", "after_with_context": "last_with_context"}
"""Stage in the record -> which weights were evaluated, and how they were selected; others keep the name of the stage."""
SELECTION_NAMES = {
    "icl": "in-context", "before": "before", "teacher": "teacher", "last": "last", "best_in_domain": "best in-domain",
    "best_out_of_domain": "best out-of-domain", "last_with_context": "last, with context",
}  # fmt: skip
"""Display names of selections, in the order of tables."""
METRIC_NAMES = {"rougeL": "ROUGE-L", "off context kl": "off-context KL"}
FINAL = ("icl", "last")
"""The selections that a method is judged by: nothing was selected on the evaluation sets."""
FINAL_STAGES = ("icl", "after")
DOMAINS = ("in_domain", "out_of_domain")
EVALUATED = (*DOMAINS, "test")
"""The groups of a task's own sets, which are compared and tested; `test` is that of --test_file."""
HEADINGS = {"in_domain": "in-domain", "out_of_domain": "out-of-domain", "test": "test", "retention": "other tasks"}
"""Display names of groups of sets that are pooled."""
ELSEWHERE, ALL_SETS = "elsewhere", "all sets"
OF_NO_SET = {"off_context_kl": ELSEWHERE, "contamination": ELSEWHERE, "abstention": ALL_SETS, "false_abstention": ALL_SETS}
"""Metrics that are not of the rows of one set -> the name in place of a set's: of unrelated prompts, or of those rows of all sets
that are unanswerable, or are not."""
GROUP = ("task", "model", "shots", "pattern", "method", "differs", "setting", "headline")
"""The columns that repetitions of a run share: everything except the seeds."""
OTHER_ROWS = "≠"
OTHER_ROWS_NOTE = "≠ evaluated on different rows: not directly comparable."
OTHER_PRECISION = "‡"
OTHER_PRECISION_NOTE = "‡ computed in another precision: scores may differ a little, and CPU times are not comparable."


def rows_text(n: float, sets: Iterable[str]) -> str:
    """The rows that a score is over: how many, if that is known, of which sets."""
    return ("" if math.isnan(n) else f"{n:.0f} of ") + " + ".join(sets)


def is_zero_shot(method: object, shots: object, context: object) -> bool:
    """Whether a run evaluated an untrained model without any context."""
    return method == "icl" and not shots and not context


def method_name(row: Mapping[str, object]) -> str:
    """The display name of a method, from a row with `method`, `shots` and `context`, ignoring `differs`."""
    if is_zero_shot(row["method"], row["shots"], row["context"]):
        return "zero-shot"
    return METHOD_NAMES.get(str(row["method"]), str(row["method"]))


def shown_method(row: Mapping[str, object]) -> str:
    """The display name of a method, with the row's `differs`, which distinguishes settings of the method."""
    return method_name(row) + (f" ({row['differs']})" if row["differs"] else "")


def selection_name(selection: object) -> str:
    """The display name of a selection."""
    return SELECTION_NAMES.get(str(selection), str(selection))


def stage_name(stage: str) -> str:
    """The display name of a stage of one run; the last one is called `after`, in contrast to `before`."""
    return selection_name(SELECTIONS.get(stage, stage)).replace("last", "after")


def metric_name(metric: object) -> str:
    """The display name of a metric; names of up to three letters are abbreviations, such as KL or MSE."""
    name = str(metric).replace("_", " ")
    return METRIC_NAMES.get(name, name if len(name) > 3 else name.upper())


def headline_name(row: Mapping[str, object]) -> str:
    """The metric of a row with `headline` and `higher_is_better`, for tables and axes."""
    return metric_name(row["headline"]) + ("" if row["higher_is_better"] else " (lower is better)")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts of Python's own types; many times faster than `to_dict` for text columns."""
    names = list(frame.columns)
    columns = [frame[name].tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def in_order_of(
    frame: pd.DataFrame, names: Iterable[str], column: str, before: Sequence[str], behind: Sequence[str]
) -> pd.DataFrame:
    """Rows sorted by the columns `before`, then `column` in the order of `names`, then the columns `behind`, with a new index.

    When models are sorted by `weights`, the smallest number of each model counts: with an adapter it is still the same model.
    """
    places = {name: place for place, name in enumerate(names)}
    order = frame[column].astype(str).map(places).fillna(len(places))
    keys = frame.assign(_order=order)[[*before, "_order", *behind]]
    if "weights" in before:
        keys["weights"] = frame.groupby("model", sort=False)["weights"].transform("min")
    return frame.loc[keys.sort_values(list(keys.columns), kind="stable").index].reset_index(drop=True)
