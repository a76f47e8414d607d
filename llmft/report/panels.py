"""What the pictures share: sizes, panels, legend, caption, rows under headings, and numbers in a short form."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmft.report.points import look_name, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 7.0
"""Inches: the width of a page's text."""
PANELS, ROWS = 6, 40
"""The most panels, and rows, in one picture."""
SHARE = 7
"""The fewest rows of a task and model in a picture that has not all."""
IN, OUT = "#1b6ca8", "#d1603d"
"""Colours of in-domain and out-of-domain where a picture has both, told apart also without colour vision."""
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
    "figure.dpi": 150,
}


def grid(found: pd.DataFrame, by: list[str]) -> tuple[Figure, list[tuple[Axes, Any]], int]:
    """A figure with a square panel a group; its panels with (key, rows); how many groups had no place."""
    import matplotlib.pyplot as plt

    parts = list(found.groupby(by, sort=False))
    shown = parts[:PANELS]
    columns = min(len(shown), 2 if len(shown) in (2, 4) else 3)
    lines = math.ceil(len(shown) / columns)
    side = min(3.3, WIDTH / columns)
    figure, table = plt.subplots(
        lines, columns, figsize=(max(side * columns, 4.0), 0.7 + (side + 0.3) * lines), squeeze=False, layout="constrained"
    )
    flat = list(table.flat)
    for axes in flat[len(shown) :]:
        axes.remove()
    return figure, list(zip(flat, shown, strict=False)), len(parts) - len(shown)


def sections(means: pd.DataFrame) -> tuple[list[tuple[str, pd.Series | None]], str]:
    """The groups as rows below a heading for each task and model, at most `ROWS`; where there are more, some of each.

    Returns:
        (name, group) of each row, headings without a group; what a caption says of rows without a place.
    """
    rows: list[tuple[str, pd.Series | None]] = []
    parts = list(means.groupby(["task", "model"], sort=False))
    share = ROWS if len(means) + len(parts) <= ROWS else max(SHARE, ROWS // len(parts) - 1)
    for (task, model), own in parts:
        room = min(share, ROWS - len(rows) - 1)
        if room <= 0:
            break
        several = own["pattern"].nunique() > 1
        turns = own.groupby("look", sort=False).cumcount().sort_values(kind="stable")  # a row of every method, then second ones
        rows.append((f"{task} ({model})", None))
        for _, group in own[own.index.isin(turns.index[:room])].iterrows():
            rows.append(
                (f"{group['name']}, {group['pattern']}" if several and pd.notna(group["pattern"]) else group["name"], group)
            )
    left_out = len(means) - sum(group is not None for _, group in rows)
    return rows, f" {left_out} further rows are in report.html." if left_out else ""


def name_rows(axes: Axes, rows: list[tuple[str, pd.Series | None]]) -> None:
    """The rows' names on the left, headings bold; the first row is at the top."""
    axes.set_yticks(range(len(rows)), [shortened(name, 46) for name, _ in rows])
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    for (_, group), tick in zip(rows, axes.yaxis.get_major_ticks(), strict=True):
        tick.label1.set_fontweight("bold" if group is None else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)


def legend(figure: Figure, found: pd.DataFrame) -> None:
    """The methods above the panels, in rows."""
    from matplotlib.lines import Line2D

    looks = looks_of(found["look"])
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=6, label=look_name(key))
        for key, look in looks.items()
    ]
    rows = math.ceil(len(handles) / (3 if figure.get_figwidth() < 6 else 6))
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1, handletextpad=0.2)


def note(figure: Figure, text: str) -> None:
    """A caption below the panels."""
    wide = int(figure.get_figwidth() * 19)
    figure.supxlabel("\n".join(textwrap.wrap(text, wide)), fontsize=7, color="#555555")


def panels_left_out(count: int) -> str:
    """What a caption says of panels without a place."""
    return f" {count} further panels are in report.html." if count else ""


def panel_title(found: pd.DataFrame, task: str, model: str) -> str:
    """The task, and the model below it where there are several."""
    return shortened(task, 36) + (f"\n{shortened(model, 36)}" if found["model"].nunique() > 1 else "")


def shortened(text: str, most: int) -> str:
    """The text, its middle left out where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def counted(value: float) -> str:
    """A large number in a short form: 1.3B, 125M, 470k."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def scale_of_costs(axes: Axes, costs: pd.Series) -> None:
    """A logarithmic axis with plain numbers, and a place for 0 where something costs nothing."""
    from matplotlib.ticker import NullFormatter, SymmetricalLogLocator

    positive = costs[costs > 0]
    if positive.empty:
        return
    if (costs == 0).any():
        nothing = positive.min() / 2
        axes.set_xscale("symlog", linthresh=nothing, linscale=0.4)
        axes.set_xlim(-nothing / 4, positive.max() * 2)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=nothing, subs=(1, 3)))
        axes.xaxis.set_major_formatter(lambda value, _: counted(value))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xscale("log")
        axes.set_xlim(positive.min() / 1.6, positive.max() * 1.6)
        log_ticks(axes.xaxis, positive.min(), positive.max())


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis; powers are slow to draw and hard to read."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    dense = high < 30 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if dense else (1,)))
    axis.set_major_formatter(lambda value, _: counted(value))
    axis.set_minor_formatter(NullFormatter())
    if dense:
        axis.set_minor_locator(NullLocator())
