"""Curves of training: loss, and for distilled students their divergence from the teacher, by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.names import GROUP
from llmft.report.panels import WIDTH, legend, note, panel_title
from llmft.report.points import Look, group_name, looks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmft.report.collect import Collection

SEEDS, GROUPS, PANELS = 10, 6, 5
"""The most lines of one group, groups in a panel, and rows of panels."""
DISTILLED, TUNED = "distilled", "tuned"
TITLES = {TUNED: "training loss (label)", DISTILLED: "training loss (divergence from the teacher)"}


def kind_of(method: str) -> str:
    """What a method's loss is: of the label, or of the teacher's answer."""
    return DISTILLED if method.startswith("distill") else TUNED


def training_curves(collection: Collection, judged: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The logged losses of some runs of each group of each task and model.

    Returns:
        `task`, `model`, `look`, `name` (of the group), `kind`, `id`, `step`, `loss`; how many trained runs were left out.
    """
    trained = judged[judged["method"] != "icl"]
    chosen, names = [], {}
    for number, (_, runs) in enumerate(trained.groupby(["task", "model"], sort=False)):
        kinds = runs["method"].map(kind_of)
        for _, part in runs.groupby(kinds, sort=False):
            for place, (_, group) in enumerate(part.groupby(list(GROUP), sort=False, dropna=False)):
                if number < PANELS and place < GROUPS:
                    chosen.append(group.head(SEEDS))
                    names |= dict.fromkeys(group["id"], group_name(group.iloc[0]))
    if not chosen:
        return pd.DataFrame(columns=["task", "model", "look", "name", "kind", "id", "step", "loss"]), len(trained)
    shown = pd.concat(chosen)
    logs = collection.logs(list(shown["id"]))
    rows: list[dict[str, Any]] = []
    for _, run in shown.iterrows():
        common = {name: run[name] for name in ("task", "model", "look", "id")}
        common |= {"name": names[run["id"]], "kind": kind_of(run["method"])}
        rows += [{**common, "step": e["step"], "loss": e["loss"]} for e in logs.get(run["id"], []) if "loss" in e]
    return pd.DataFrame(rows, columns=["task", "model", "look", "name", "kind", "id", "step", "loss"]), len(trained) - len(shown)


def draw_training(collection: Collection, judged: pd.DataFrame) -> Figure | None:
    """Losses by step: a thin line a run, a thick one the mean of seeds; a row of panels a task and model."""
    import matplotlib.pyplot as plt

    found, left_out = training_curves(collection, judged)
    if found.empty:
        return None
    kinds = [kind for kind in TITLES if (found["kind"] == kind).any()]
    parts = list(found.groupby(["task", "model"], sort=False))
    figure, table = plt.subplots(
        len(parts), len(kinds), figsize=(WIDTH, 1.0 + 2.1 * len(parts)), squeeze=False, layout="constrained"
    )
    looks = looks_of(judged["look"])
    for ((task, model), rows), panels in zip(parts, table, strict=True):
        for axes, kind in zip(panels, kinds, strict=True):
            here = rows[rows["kind"] == kind]
            for (key, _), group in here.groupby(["look", "name"], sort=False):
                _draw_group(axes, looks[key], group)
            axes.set(
                title=panel_title(judged, task, model),
                xlabel="step" if (task, model) == parts[-1][0] else "",
                ylabel=TITLES[kind].replace(" (", "\n("),
            )
            if (here["loss"] > 0).any():
                axes.set_yscale("log")
            if here.empty:
                axes.set_visible(False)
    legend(figure, found)
    rest = f" {left_out} further runs have theirs in train_log.jsonl." if left_out else ""
    note(figure, f"A thin line a run, a thick one the mean of seeds.{rest}")
    return figure


def _draw_group(axes: Any, look: Look, group: pd.DataFrame) -> None:
    for _, run in group.groupby("id", sort=False):
        axes.plot(run["step"], run["loss"], color=look.colour, linewidth=0.6, alpha=0.5)
    mean = group.groupby("step")["loss"].mean()
    axes.plot(
        mean.index, mean, color=look.colour, linewidth=1.8, marker=look.marker, markersize=3, markevery=max(1, len(mean) // 8)
    )
