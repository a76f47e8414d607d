"""Pictures of task diversity, from the tables written by `python -m llmft.worlds.regression.measure`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llmft.report.figures.panels import Sheet, log_ticks, names_of_looks, note, subplots
from llmft.report.figures.points import Look
from llmft.report.figures.svg import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODEL, DMMSE, RIDGE, TEACHER, FITTED = "transformer", "dMMSE", "ridge", "teacher", "fitted on the examples"
LOOKS = {
    MODEL: Look("#0072b2", "o"),
    DMMSE: Look("#d55e00", "s"),
    RIDGE: Look("#009e73", "^"),
    TEACHER: Look("#e69f00", "D"),
    FITTED: Look("#cc79a7", "v"),
}
TASKS = {"pretrain": "tasks of the pool", "true": "fresh tasks"}
BUDGETS = ("#9ecae1", "#0072b2", "#08306b", "#000000")
"""Colours of training budgets, smallest first; further ones share the last colour."""
ERROR = "noiseless squared error / D"
TO_RIDGE = "distance to ridge (eq. 4)"
DIVERSITY_PICTURES = {
    "errors": "Errors by the number of pretraining tasks",
    "threshold": "Distance to ridge by budget",
    "training": "Distance to ridge in training",
    "path": "Errors between two tasks of the pool",
    "distillation": "Distilled contexts",
}
"""Names of all pictures, and their titles."""


def diversity_sheets(name: str, tables: Mapping[str, pd.DataFrame]) -> Iterator[Sheet]:
    """The sheets of a picture, one for each kind of runs; none if its table is empty.

    Args:
        tables: name -> what `measure` wrote to `<name>.csv`.
    """
    draw, table = {
        "errors": (_draw_errors, "results"),
        "threshold": (_draw_threshold, "results"),
        "training": (_draw_training, "steps"),
        "path": (_draw_path, "path"),
        "distillation": (_draw_distillation, "distillation"),
    }[name]
    frame = tables[table]
    keys = ["dimension", "kind", *(["students"] if name == "distillation" else [])]
    for (dimension, *others), part in frame.groupby(keys, sort=False) if len(frame) else ():
        named = [f"{what}{value}" for what, value in zip(("", "students "), others, strict=False) if value != "default"]
        yield from draw(part, ", ".join([f"dimension {dimension}", *named]))


def _largest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest budget; of budgets of as many sequences, the one with the most steps."""
    budgets = frame["steps"] * frame["batch_size"]
    frame = frame[budgets == budgets.max()]
    return frame[frame["steps"] == frame["steps"].max()]


def _budget_of(frame: pd.DataFrame) -> str:
    """The budget that all rows share."""
    return f"{frame['steps'].iloc[0]:,} steps of {frame['batch_size'].iloc[0]:,} sequences"


def _places(pools: pd.Series) -> dict[int, int]:
    """Pool size -> position on an axis, fresh tasks (size 0) last."""
    sizes = sorted(pools.unique(), key=lambda size: size or np.inf)
    return {size: place for place, size in enumerate(sizes)}


def _pool_axis(axes: Axes, places: Mapping[int, int]) -> None:
    axes.set_xticks(list(places.values()), [f"{size}" if size else "inf" for size in places])
    axes.set_xlabel("tasks in the pool")


def _line(
    axes: Axes, look: Look, rows: pd.DataFrame, column: str, places: Mapping[int, int], who: str, dashed: bool = False
) -> None:
    """Draw the mean over seeds as a line, and each seed as a mark that shows its value."""
    mean = rows.groupby("pool")[column].mean()
    mean = mean.loc[sorted(mean.index, key=places.__getitem__)]
    axes.plot([places[size] for size in mean.index], mean, color=look.colour, linewidth=1.4, linestyle="--" if dashed else "-")
    (marks,) = axes.plot(rows["pool"].map(places), rows[column], look.marker, color=look.colour, markersize=3)
    tips = zip(rows["pool"], rows["seed"], rows[column], strict=True)
    say(marks, [f"{who}\npool {size or 'inf'}, seed {seed}\n{value:.4f}" for size, seed, value in tips])


def _draw_errors(frame: pd.DataFrame, title: str) -> Iterator[Sheet]:
    frame = _largest(frame)
    figure, table = subplots(1, 2, 3.0, sharey=True)
    places = _places(frame["pool"])
    for axes, (tasks, name) in zip(table[0], TASKS.items(), strict=True):
        rows = frame[frame["tasks"] == tasks]
        for who, column in ((MODEL, "error"), (DMMSE, "error_dmmse"), (RIDGE, "error_ridge")):
            _line(axes, LOOKS[who], rows, column, places, who, dashed=who != MODEL)
        axes.set_title(name)
        _pool_axis(axes, places)
    table[0][0].set_ylabel(ERROR)
    names_of_looks(figure, {who: LOOKS[who] for who in (MODEL, DMMSE, RIDGE)})
    note(figure, f"{title}; {_budget_of(frame)}. Marks: seeds, lines: their means.")
    yield Sheet(figure, title)


def _draw_threshold(frame: pd.DataFrame, title: str) -> Iterator[Sheet]:
    """Budgets that differ in their steps, one sheet for each batch size, and those that differ in their batch size."""
    true = frame[frame["tasks"] == "true"]
    for varied, held in (("steps", "batch_size"), ("batch_size", "steps")):
        for value, rows in true.groupby(held):
            if rows[varied].nunique() > 1:
                budgets = rows.assign(budget=rows["steps"] * rows["batch_size"])
                yield _sheet_of_budgets(budgets, f"{title}, {value:,} {'steps' if held == 'steps' else 'sequences a step'}")


def _sheet_of_budgets(rows: pd.DataFrame, title: str) -> Sheet:
    budgets = sorted(rows["budget"].unique())
    figure, table = subplots(1, 2, 3.0)
    (distances, changes), places = table[0], _places(rows["pool"])
    looks = {f"{budget:,} sequences": Look(BUDGETS[min(place, 3)], "o") for place, budget in enumerate(budgets)}
    for (who, look), budget in zip(looks.items(), budgets, strict=True):
        _line(distances, look, rows[rows["budget"] == budget], "to_ridge", places, who)
    distances.set_yscale("log")
    log_ticks(distances.yaxis, rows["to_ridge"].min(), rows["to_ridge"].max())
    distances.set_ylabel(TO_RIDGE)
    less, more = (rows[rows["budget"] == budget] for budget in budgets[-2:])
    both = less.merge(more, on=["pool", "seed"], suffixes=("_less", "_more"))
    both["change"] = both["to_ridge_more"] - both["to_ridge_less"]
    if len(both):
        _line(changes, LOOKS[MODEL], both, "change", places, "change")
    changes.axhline(0, color="#777777", linewidth=0.8)
    changes.set_ylabel("change of the distance")
    for axes in table[0]:
        _pool_axis(axes, places)
    names_of_looks(figure, looks)
    compared = f"{budgets[-2]:,} to {budgets[-1]:,} sequences"
    note(figure, f"{title}; fresh tasks. The threshold M* is where the change from {compared} falls through 0.")
    return Sheet(figure, title)


def _draw_training(frame: pd.DataFrame, title: str) -> Iterator[Sheet]:
    import matplotlib

    frame = _largest(frame)
    figure, table = subplots(1, 2, 3.0)
    places = _places(frame["pool"])
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(places)))
    looks = {size: Look(matplotlib.colors.to_hex(colour), "o") for size, colour in zip(places, colours, strict=True)}
    for axes, column, name in zip(table[0], ("pretrain_to_ridge", "true_to_ridge"), TASKS.values(), strict=True):
        for size, rows in frame.groupby("pool"):
            mean = rows.groupby("step")[column].mean()
            axes.plot(mean.index, mean, color=looks[size].colour, linewidth=1.4)
            (marks,) = axes.plot(mean.index, mean, "o", color=looks[size].colour, markersize=2.5)
            say(marks, [f"pool {size or 'inf'}\nstep {step}\n{value:.4f}" for step, value in mean.items()])
        axes.set_yscale("log")
        log_ticks(axes.yaxis, frame[column].min(), frame[column].max())
        axes.set_title(name)
        axes.set_xlabel("step")
    table[0][0].set_ylabel(TO_RIDGE)
    names_of_looks(figure, {f"M={size or 'inf'}": look for size, look in looks.items()})
    note(figure, f"{title}; {_budget_of(frame)}. Means over seeds.")
    yield Sheet(figure, title)


def _draw_path(frame: pd.DataFrame, title: str) -> Iterator[Sheet]:
    frame = _largest(frame)
    sizes = list(_places(frame["pool"]))
    columns = min(3 if len(sizes) <= 6 else 4, len(sizes))
    lines = -(-len(sizes) // columns)
    figure, table = subplots(lines, columns, 0.6 + 2.0 * lines, sharex=True)
    for axes, size in zip(table.flat, sizes, strict=False):
        rows = frame[frame["pool"] == size].groupby("share")[["error", "error_dmmse", "error_ridge"]].mean()
        for who, column in ((MODEL, "error"), (DMMSE, "error_dmmse"), (RIDGE, "error_ridge")):
            (line,) = axes.plot(
                rows.index, rows[column], LOOKS[who].marker, color=LOOKS[who].colour, markersize=2.5, linestyle="-"
            )
            say(line, [f"{who}\n{share:.1f} of the way\n{value:.4f}" for share, value in rows[column].items()])
        axes.set_title(f"M={size or 'inf'}")
        axes.set_ylim(bottom=0)
    for axes in list(table.flat)[len(sizes) :]:
        axes.remove()
    figure.supylabel(ERROR, fontsize=8)
    names_of_looks(figure, {who: LOOKS[who] for who in (MODEL, DMMSE, RIDGE)})
    note(figure, f"{title}; {_budget_of(frame)}. From one task of the pool (0) to another (1).")
    yield Sheet(figure, title)


def _draw_distillation(frame: pd.DataFrame, title: str) -> Iterator[Sheet]:
    frame = _largest(frame)
    frame = frame.assign(pool=frame["pool"].map(lambda name: int(name[2:].replace("inf", "0"))))
    kinds = list(frame.groupby(["context_task", "context_examples"], sort=False))
    figure, table = subplots(1, len(kinds), 3.0)
    places = _places(frame["pool"])
    columns = {MODEL: "error_student", TEACHER: "error_teacher", DMMSE: "error_dmmse", RIDGE: "error_ridge", FITTED: "error_fit"}
    for axes, ((task, examples), rows) in zip(table[0], kinds, strict=True):
        for who, column in columns.items():
            _line(axes, LOOKS[who], rows, column, places, who, dashed=who in (DMMSE, RIDGE))
        axes.set_yscale("log")
        log_ticks(axes.yaxis, rows[list(columns.values())].min(axis=None), rows[list(columns.values())].max(axis=None))
        axes.set_title(f"{examples} examples of a {'new task' if task == 'new' else 'task of the pool'}")
        _pool_axis(axes, places)
    table[0][0].set_ylabel(ERROR)
    names_of_looks(figure, {("student" if who == MODEL else who): LOOKS[who] for who in columns})
    note(figure, f"{title}; pretrained for {_budget_of(frame)}. Students read only the query. Marks: seeds, lines: their means.")
    yield Sheet(figure, title)
