"""Training curves by step: the loss, which for distilled students is their divergence from the teacher on the queries, and, if
they were evaluated during training, the same on the in-domain sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.figures.panels import (
    Sheet,
    legend,
    log_ticks,
    note,
    panel_title,
    room_around,
    sheet_name,
    sheets_of_panels,
    subplots,
)
from llmft.report.figures.points import Look, group_name, looks_of
from llmft.report.figures.svg import say
from llmft.report.records.names import GROUP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmft.report.records.collect import Collection

SEEDS, GROUPS, PANELS = 10, 6, 5
"""Maximum number of lines of one group, of groups in a panel, and of rows of panels on a sheet."""
COLUMNS = ["task", "model", "look", "pattern", "name", "group", "kind", "id", "step", "loss"]
DISTILLED, TUNED, HELD_OUT = "distilled", "tuned", "held out"
TITLES = {
    TUNED: "training loss (cross-entropy)",
    DISTILLED: "training loss (divergence from the teacher)",
    HELD_OUT: "KL from the teacher (in-domain sets)",
}
UNITS = {TUNED: "loss", DISTILLED: "loss", HELD_OUT: "KL"}


def curve_of(method: str) -> str:
    """The kind of a method's loss: on given answers or a document, or on the teacher's answers."""
    return DISTILLED if method.startswith("distill") else TUNED


def training_curves(collection: Collection, judged: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The logged losses of some runs of each group of each task and model.

    Returns:
        `COLUMNS`, where `group` is a number and `name` and `pattern` are the group's; how many trained runs were left out.
    """
    trained = judged[judged["method"] != "icl"]
    chosen: list[pd.DataFrame] = []
    for _, part in trained.groupby(["task", "model", trained["method"].map(curve_of)], sort=False):
        chosen += [group.head(SEEDS) for _, group in list(part.groupby(list(GROUP), sort=False, dropna=False))[:GROUPS]]
    logs = collection.logs([run for group in chosen for run in group["id"]])
    rows: list[tuple[Any, ...]] = []
    for number, group in enumerate(chosen):
        first = group.iloc[0]
        who = (*first[["task", "model", "look", "pattern"]], group_name(first), number)
        for run in group["id"]:
            log, sets = logs.get(run, []), collection.sets[run].get("in_domain", [])
            for kind, names in ((curve_of(first["method"]), ["loss"]), (HELD_OUT, [f"eval_{name}_kl" for name in sets])):
                rows += [(*who, kind, run, *entry) for entry in logged(log, names)]
    return pd.DataFrame(rows, columns=COLUMNS), len(trained) - sum(map(len, chosen))


def logged(log: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Iterator[tuple[int, float]]:
    """Step and value of each entry of a training log that has finite values of these names; their mean for several names.

    Old logs may hold several trainings, each with steps from 1; entries of all but the last one have a `stage`, and are left out.
    """
    for entry in log:
        values = [entry[name] for name in names if isinstance(entry.get(name), int | float)]
        if "stage" not in entry and values and len(values) == len(names) and all(map(math.isfinite, values)):
            yield entry["step"], sum(values) / len(values)


def draw_training(collection: Collection, judged: pd.DataFrame) -> Iterator[Sheet]:
    """Losses by step: thin lines are runs, thick ones means over seeds; each task and model has a row of panels."""
    curves, left_out = training_curves(collection, judged)
    steps = curves.groupby(["task", "model", "kind"])["step"].transform("nunique")
    curves = curves[(curves["kind"] != HELD_OUT) | (steps > 1)]  # one evaluation is no curve
    looks = looks_of(judged["look"])
    rest = f" {left_out} further runs have theirs in train_log.jsonl." if left_out else ""
    for parts in sheets_of_panels(curves, ["task", "model"], PANELS):
        shown = pd.concat([rows for _, rows in parts])
        kinds = [kind for kind in TITLES if (shown["kind"] == kind).any()]
        figure, table = subplots(len(parts), len(kinds), 1.0 + 2.1 * len(parts))
        for ((task, model), rows), panels in zip(parts, table, strict=True):
            for axes, kind in zip(panels, kinds, strict=True):
                _draw_panel(axes, looks, rows[rows["kind"] == kind], kind)
                axes.set_title(panel_title(judged, task, model))
        for axes in table[-1]:
            axes.set_xlabel("step")
        legend(figure, looks, shown["look"])
        note(figure, f"Thin lines: runs, thick ones: means over seeds.{rest}")
        yield Sheet(figure, sheet_name([f"{task} ({model})" for (task, model), _ in parts]))


def _draw_panel(axes: Axes, looks: Mapping[str, Look], rows: pd.DataFrame, kind: str) -> None:
    patterns = rows["pattern"].nunique() > 1
    for _, group in rows.groupby("group", sort=False):
        first = group.iloc[0]
        pattern = f", {first['pattern']}" if patterns and isinstance(first["pattern"], str) else ""
        who = f"{first['name']}{pattern}\n{first['task']}, {first['model']}"
        _draw_group(axes, looks[first["look"]], group, who, UNITS[kind])
    axes.set_ylabel(TITLES[kind].replace(" (", "\n("), fontsize=7)  # fits the height of the panel
    if (rows["loss"] > 0).all():
        axes.set_yscale("log")
        room_around(axes.yaxis, rows["loss"].min(), rows["loss"].max())
        log_ticks(axes.yaxis, rows["loss"].min(), rows["loss"].max())
    if rows.empty:
        axes.set_visible(False)


def _draw_group(axes: Axes, look: Look, group: pd.DataFrame, who: str, unit: str) -> None:
    for run, curve in group.groupby("id", sort=False):
        (line,) = axes.plot(curve["step"], curve["loss"], color=look.colour, linewidth=0.6, alpha=0.5)
        last = curve.iloc[-1]
        say(line, [f"{who}\nrun {run}\nlast {unit} {last['loss']:.3g} at step {last['step']}"])
    mean = group.groupby("step")["loss"].mean()
    axes.plot(mean.index, mean, color=look.colour, linewidth=1.8)
    marked = mean.iloc[:: max(1, len(mean) // 8)]
    (markers,) = axes.plot(marked.index, marked, look.marker, color=look.colour, markersize=3)
    say(markers, [f"{who}\nmean {unit} {loss:.3g} at step {step}" for step, loss in marked.items()])
