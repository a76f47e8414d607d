"""Pictures with a row a method: the overview, memory, and the recovered gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llmft.report.panels import IN, OUT, WIDTH, log_ticks, name_rows, note, sections
from llmft.report.points import DOMAINS, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = dict(zip(DOMAINS, ((IN, "o", 5, -0.15), (OUT, "D", 4, 0.15)), strict=True))
"""Colour, marker, its size and place within a row."""


def draw_results(judged: pd.DataFrame, means: pd.DataFrame) -> Figure | None:
    """All methods at a glance: accuracy beside the tokens that a query costs."""
    import matplotlib.pyplot as plt

    if judged.empty:
        return None
    rows, rest = sections(means)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.9 + 0.3 * len(rows)), sharey=True, width_ratios=(3, 1.2), layout="constrained"
    )
    for domain in DOMAINS:
        _dots(left, rows, judged[domain], domain)
    tokens = {y: group["tokens_per_query"] for y, (_, group) in enumerate(rows) if group is not None}
    right.barh(list(tokens), list(tokens.values()), height=0.5, color="#8a8f98")
    for y, count in tokens.items():
        if count == count:
            right.text(count, y, f" {count:.0f}", va="center")
    name_rows(left, rows)
    right.tick_params(axis="y", length=0)
    right.grid(axis="y", visible=False)
    left.set(xlabel="accuracy", xlim=(min(0.45, judged[list(DOMAINS)].min().min() - 0.03), 1.02))
    most = np.fmax(judged["tokens_per_query"].max(), 2)
    right.set(xlabel="tokens per query (log)", xscale="log", xlim=(1, 5 * most))
    log_ticks(right.xaxis, 1, most)
    _domains(left, judged, DOMAINS)
    note(figure, f"A marker a run, a bar their mean; trained models after the last step.{rest}")
    return figure


def draw_memory(means: pd.DataFrame) -> Figure | None:
    """Peak and time-weighted mean of memory; on the GPU as well where there was one."""
    import matplotlib.pyplot as plt

    kinds = {"rss": "memory of the processes", "gpu": "GPU memory"}
    shown = {kind: title for kind, title in kinds.items() if (means[f"{kind}_peak_bytes"] > 0).any()}
    if not shown:
        return None
    rows, rest = sections(means)
    unit, scale, digits = ("GiB", 2**30, 1) if means["rss_peak_bytes"].max() > 4 * 2**30 else ("MiB", 2**20, 0)
    figure, (table,) = plt.subplots(
        1, len(shown), figsize=(WIDTH, 0.8 + 0.27 * len(rows)), sharey=True, squeeze=False, layout="constrained"
    )
    looks = looks_of(means["look"])
    places = {y: group for y, (_, group) in enumerate(rows) if group is not None}
    colours = [looks[group["look"]].colour for group in places.values()]
    for axes, (kind, title) in zip(table, shown.items(), strict=True):
        peaks, middles = ([g[f"{kind}_{how}_bytes"] / scale for g in places.values()] for how in ("peak", "mean"))
        axes.barh(list(places), peaks, height=0.7, color=colours, alpha=0.35)
        axes.barh(list(places), middles, height=0.3, color=colours)
        for y, peak in zip(places, peaks, strict=True):
            if peak == peak:
                axes.text(peak, y, f" {peak:.{digits}f}", va="center", fontsize=7)
        axes.set_xlabel(f"{title}, {unit}")
        axes.margins(x=0.1)
    name_rows(table[0], rows)
    for axes in table[1:]:
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    note(figure, f"Wide and pale: peak, with its value; narrow: mean over time; of whole runs, means of seeds.{rest}")
    return figure


def draw_gap(judged: pd.DataFrame, means: pd.DataFrame) -> Figure | None:
    """The share of the gap between the model without context and its teacher that training closed."""
    import matplotlib.pyplot as plt

    columns = [f"gap_recovered_{domain}" for domain in DOMAINS]
    found = judged.dropna(subset=columns, how="all")
    if found.empty:
        return None
    rows, rest = sections(means.dropna(subset=columns, how="all"))
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.3 * len(rows)), layout="constrained")
    for domain, column in zip(DOMAINS, columns, strict=True):
        _dots(axes, rows, 100 * judged[column].clip(-1, 2), domain)
    name_rows(axes, rows)
    axes.set_xlabel("gap recovered, %")
    for place in (0, 100):
        axes.axvline(place, color="#777777", linewidth=0.8, linestyle="--", zorder=0.5)
    _domains(axes, found, columns)
    cut = (
        " Values beyond -100 and 200 % are drawn there." if ((found[columns] < -1) | (found[columns] > 2)).any(axis=None) else ""
    )
    note(figure, f"0: as before training, 100: as the teacher with its context. A marker a run, a bar their mean.{cut}{rest}")
    return figure


def _dots(axes: Axes, rows: list[tuple[str, pd.Series | None]], values: pd.Series, domain: str) -> None:
    """A marker for each run, and a bar at the mean of each group."""
    colour, marker, size, shift = MARKS[domain]
    found = {y + shift: values.loc[group["members"]].dropna() for y, (_, group) in enumerate(rows) if group is not None}
    found = {y: own for y, own in found.items() if len(own)}
    if found:
        places = np.repeat(list(found), [len(own) for own in found.values()])
        axes.plot(pd.concat(found.values()), places, marker, color=colour, alpha=0.5, markersize=size, mew=0)
        axes.vlines(
            [own.mean() for own in found.values()], *(np.array([*found]) + d for d in (-0.13, 0.13)), color=colour, linewidth=2
        )


def _domains(axes: Axes, found: pd.DataFrame, columns: list[str] | tuple[str, ...]) -> None:
    """The legend of the two domains, as far as there are values."""
    for domain, column in zip(DOMAINS, columns, strict=True):
        colour, marker, size, _ = MARKS[domain]
        if found[column].notna().any():
            axes.plot([], [], marker, color=colour, markersize=size, label=domain.replace("_", "-"))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
