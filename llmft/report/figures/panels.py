"""Shared parts of the pictures: sizes, sheets, panels, legend, caption, rows under headings, and short forms of numbers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from llmft.report.figures.points import Look, look_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 7.0
"""Text width of a page in inches."""
PANELS, ROWS = 6, 40
"""Maximum number of panels, and of rows, on one sheet."""
GREY = "#777777"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # text stays text, for searching and screen readers
    "text.parse_math": False,  # names may contain dollar signs
    "figure.dpi": 150,
    "figure.max_open_warning": 0,  # all sheets of a picture are pages of one PDF
}

Rows = list[tuple[str, pd.Series | None]]
"""Names of rows with their groups; headings have none."""


class Sheet(NamedTuple):
    """A picture, or as much of it as fits on a page, and the name of what it shows."""

    figure: Figure
    name: str


def sheets_of_panels(frame: pd.DataFrame, by: list[str], most: int) -> Iterator[list[tuple[tuple[str, ...], pd.DataFrame]]]:
    """(key, rows) of each group, at most `most` on a sheet; groups with the same first key stay together if possible."""
    sheet: list[tuple[tuple[str, ...], pd.DataFrame]] = []
    for _, group in groupby(frame.groupby(by, sort=False), key=lambda part: part[0][0]):
        parts = list(group)
        if sheet and len(sheet) + len(parts) > most:
            yield sheet
            sheet = []
        for part in parts:
            if len(sheet) == most:
                yield sheet
                sheet = []
            sheet.append(part)
    if sheet:
        yield sheet


def sheets_of_rows(means: pd.DataFrame) -> Iterator[tuple[Rows, str]]:
    """The groups as rows below a heading for each task and model, at most `ROWS` on a sheet, with the sheet's name.

    A task and model that does not fit on the rest of a sheet starts a new one; one longer than a sheet continues on the next.
    """
    rows: Rows = []
    headings: list[str] = []
    for (task, model), groups in means.groupby(["task", "model"], sort=False):
        several = groups["pattern"].nunique() > 1
        for start in range(0, len(groups), ROWS - 1):
            part = groups.iloc[start : start + ROWS - 1]
            if rows and len(rows) + 1 + len(part) > ROWS:
                yield rows, sheet_name(headings)
                rows, headings = [], []
            headings.append(f"{task} ({model})" + (", continued" if start else ""))
            rows.append((headings[-1], None))
            for _, group in part.iterrows():
                pattern = f", {group['pattern']}" if several and pd.notna(group["pattern"]) else ""
                rows.append((group["name"] + pattern, group))
    if rows:
        yield rows, sheet_name(headings)


def sheet_name(parts: Sequence[str]) -> str:
    """The name of a sheet with these parts, if there are several sheets."""
    return parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1]}"


def subplots(lines: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of a page's width and its axes, (lines, columns)."""
    import matplotlib.pyplot as plt

    options = {"figsize": (WIDTH, height), "squeeze": False, "layout": "constrained", **options}
    return plt.subplots(lines, columns, **options)


def square_panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with this many square panels."""
    columns = min(count, 2 if count in (2, 4) else 3)
    lines = math.ceil(count / columns)
    side = min(3.3, WIDTH / columns)
    figure, table = subplots(lines, columns, 0, figsize=(max(side * columns, 4.0), 0.7 + (side + 0.3) * lines))
    flat = list(table.flat)
    for axes in flat[count:]:
        axes.remove()
    return figure, flat[:count]


def name_rows(axes: Axes, rows: Rows) -> None:
    """Write the rows' names on the left, headings in bold; the first row is at the top."""
    axes.set_yticks(range(len(rows)), [abbreviated(name, 46) for name, _ in rows])
    without_rows(axes)
    for (_, group), tick in zip(rows, axes.yaxis.get_major_ticks(), strict=True):
        tick.label1.set_fontweight("bold" if group is None else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)


def without_rows(axes: Axes) -> None:
    """Remove ticks and grid lines of the rows, whose names are on the left of the figure."""
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def legend(figure: Figure, looks: Mapping[str, Look], shown: Iterable[str]) -> None:
    """A legend of the methods that are shown, above the panels, in rows."""
    shown = set(shown)
    names_of_looks(figure, {look_name(key): look for key, look in looks.items() if key in shown})


def names_of_looks(figure: Figure, looks: Mapping[str, Look]) -> None:
    """Names of looks above the panels, in rows."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=6, label=name)
        for name, look in looks.items()
    ]
    rows = math.ceil(len(handles) / (3 if figure.get_figwidth() < 6 else 6))
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1, handletextpad=0.2)


def note(figure: Figure, text: str) -> None:
    """A caption below the panels."""
    wide = int(figure.get_figwidth() * 19)
    figure.supxlabel("\n".join(textwrap.wrap(text, wide)), fontsize=7, color="#555555")


def panel_title(runs: pd.DataFrame, task: str, model: str) -> str:
    """The task, and below it the model if there are several."""
    return abbreviated(task, 36) + (f"\n{abbreviated(model, 36)}" if runs["model"].nunique() > 1 else "")


def abbreviated(text: str, most: int) -> str:
    """The text, without its middle if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def short_number(value: float) -> str:
    """A large number in a short form: 1.3B, 125M, 470k."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def are_shares(scores: pd.DataFrame) -> bool:
    """Whether all scores are between 0 and 1."""
    return scores.min(axis=None) >= 0 and scores.max(axis=None) <= 1


def scale_of_costs(axes: Axes, costs: pd.Series) -> None:
    """A logarithmic axis with plain numbers, and room for 0 if something costs nothing."""
    from matplotlib.ticker import FixedLocator, NullLocator, SymmetricalLogLocator

    positive = costs[costs > 0]
    if positive.empty:
        return
    if (costs == 0).any():
        nothing = positive.min() / 2
        axes.set_xscale("symlog", linthresh=nothing, linscale=0.4)
        axes.set_xlim(-nothing / 4, positive.max() * 2)
        ticks = SymmetricalLogLocator(base=10, linthresh=nothing, subs=(1, 3)).tick_values(0, positive.max() * 2)
        axes.xaxis.set_major_locator(FixedLocator([0, *ticks[ticks >= nothing]]))  # others would be written over the 0
        axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xscale("log")
        axes.set_xlim(positive.min() / 1.6, positive.max() * 1.6)
        log_ticks(axes.xaxis, positive.min(), positive.max())


def room_around(axis: Axis, low: float, high: float) -> None:
    """Limits of a logarithmic axis for numbers that hardly differ: within tighter ones, all ticks would show the same digits."""
    if high < 1.05 * low:
        axis.axes.set(**{f"{axis.axis_name}lim": (low / 1.05, high * 1.05)})


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis; powers are slow to draw and hard to read."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    dense = high < 30 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if dense else (1,)))
    axis.set_major_formatter(lambda value, _: short_number(value))
    axis.set_minor_formatter(NullFormatter())
    if dense:
        axis.set_minor_locator(NullLocator())
