"""Converts records of versions 3 and 4 to the format of version 5 when they are read. The rest of the report knows only this
format.

Before version 5 a phase had a single `name` (`train`, `eval after rte`), and the savings of the teacher cache were a mapping by
such names, or only sums; the student with its context was outside the stages; predictions had `label` (all were labels) and no
`score`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

OLD_ROW_COLUMNS = ("stage", "set", "idx", "label", "prediction")
HEADLINE = {"name": "score_accuracy", "higher_is_better": True}
STAGES = {name: name.replace(" ", "_") for name in ("icl", "before", "teacher", "after with context", "after", "during training")}
"""Start of the names of evaluation phases -> stage. The order matters: a set's name may contain anything."""


def metrics_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics.json` with `headline`, and with all stages in `stages`."""
    metrics = {"headline": HEADLINE, **metrics}
    with_context = metrics.get("after_with_context")
    if isinstance(with_context, dict) and "skipped" not in with_context:
        metrics["stages"] = {**metrics["stages"], "after_with_context": with_context}
    return metrics


def cost_of(cost: Mapping[str, Any]) -> dict[str, Any]:
    """`cost.json` whose phases, and those saved by the teacher cache, have `kind`, `stage` and `set`."""
    saved = cost.get("saved_by_teacher_cache") or {}
    by_name = saved.get("phases", {"teacher": saved} if saved else {})  # a single sum includes the teacher's evaluation
    if isinstance(by_name, dict):
        by_name = [{"name": name, **phase} for name, phase in by_name.items() if phase]
    phases = [_phase(phase) for phase in cost["phases"]]
    return {**cost, "phases": phases, "saved_by_teacher_cache": {**saved, "phases": [_phase(phase) for phase in by_name]}}


def _phase(phase: Mapping[str, Any]) -> dict[str, Any]:
    if "kind" in phase:
        return dict(phase)
    costs = {key: value for key, value in phase.items() if key != "name"}
    for text, stage in STAGES.items():
        if phase["name"].startswith(f"eval {text} "):
            return {"kind": "evaluate", "stage": stage, "set": phase["name"].removeprefix(f"eval {text} "), **costs}
    return {"kind": phase["name"], "stage": None, "set": None, **costs}


def predictions_of(table: pa.Table) -> pa.Table:
    """Predictions with `target` and `score`, from a table that has these or `OLD_ROW_COLUMNS`."""
    if "label" in table.column_names:
        from pyarrow import compute

        table = table.append_column("score", compute.equal(table["label"], table["prediction"]).cast("double"))
        table = table.rename_columns({"label": "target"})
    return table
