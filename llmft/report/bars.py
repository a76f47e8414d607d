"""Pictures with a row a method: the overview, memory, and the recovered gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.panels import IN, OUT, WIDTH, name_rows, note, sections
from llmft.report.points import DOMAINS, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = dict(zip(DOMAINS, ((IN, "o", 5, -0.15), (OUT, "D", 4, 0.15)), strict=True))
"""Colour, marker, its size and place within a row."""


def draw_results(judged: pd.DataFrame) -> Figure:
    """All methods at a glance: accuracy beside the tokens that a query costs."""
    import matplotlib.pyplot as plt

    rows, rest = sections(judged)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.9 + 0.3 * len(rows)), sharey=True, width_ratios=(3, 1.2), layout="constrained"
    )
    for y, (_, runs) in enumerate(rows):
        if runs is None:
            continue
        for domain in DOMAINS:
            _dots(left, y, runs[domain], domain)
        tokens = runs["tokens_per_query"].mean()
        right.barh(y, tokens, height=0.5, color="#8a8f98")
        if tokens == tokens:
            right.text(tokens, y, f" {tokens:.0f}", va="center")
    name_rows(left, rows)
    right.tick_params(axis="y", length=0)
    right.grid(axis="y", visible=False)
    left.set(xlabel="accuracy", xlim=(min(0.45, judged[list(DOMAINS)].min().min() - 0.03), 1.02))
    right.set(xlabel="tokens per query (log)", xscale="log", xlim=(1, 5 * max(judged["tokens_per_query"].max(), 2)))
    _domains(left, judged, DOMAINS)
    note(figure, f"A marker a run, a bar their mean; trained models after the last step.{rest}")
    return figure


def draw_memory(judged: pd.DataFrame) -> Figure | None:
    """Peak and time-weighted mean of memory; on the GPU as well where there was one."""
    import matplotlib.pyplot as plt

    kinds = {"rss": "memory of the processes", "gpu": "GPU memory"}
    shown = {kind: title for kind, title in kinds.items() if (judged[f"{kind}_peak_bytes"] > 0).any()}
    if not shown:
        return None
    rows, rest = sections(judged)
    unit, scale, digits = ("GiB", 2**30, 1) if judged["rss_peak_bytes"].max() > 4 * 2**30 else ("MiB", 2**20, 0)
    figure, (table,) = plt.subplots(
        1, len(shown), figsize=(WIDTH, 0.8 + 0.27 * len(rows)), sharey=True, squeeze=False, layout="constrained"
    )
    looks = looks_of(judged["look"])
    for axes, (kind, title) in zip(table, shown.items(), strict=True):
        for y, (_, runs) in enumerate(rows):
            if runs is None:
                continue
            peak, mean = (runs[f"{kind}_{how}_bytes"].mean() / scale for how in ("peak", "mean"))
            colour = looks[runs["look"].iloc[0]].colour
            axes.barh(y, peak, height=0.7, color=colour, alpha=0.35)
            axes.barh(y, mean, height=0.3, color=colour)
            if peak == peak:
                axes.text(peak, y, f" {peak:.{digits}f}", va="center", fontsize=7)
        name_rows(axes, rows)
        axes.set_xlabel(f"{title}, {unit}")
        axes.margins(x=0.1)
    note(figure, f"Wide and pale: peak, with its value; narrow: mean over time; of whole runs, means of seeds.{rest}")
    return figure


def draw_gap(judged: pd.DataFrame) -> Figure | None:
    """The share of the gap between the model without context and its teacher that training closed."""
    import matplotlib.pyplot as plt

    columns = [f"gap_recovered_{domain}" for domain in DOMAINS]
    found = judged.dropna(subset=columns, how="all")
    if found.empty:
        return None
    rows, rest = sections(found)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.3 * len(rows)), layout="constrained")
    for y, (_, runs) in enumerate(rows):
        if runs is not None:
            for domain, column in zip(DOMAINS, columns, strict=True):
                _dots(axes, y, 100 * runs[column].clip(-1, 2), domain)
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


def _dots(axes: Axes, y: float, values: pd.Series, domain: str) -> None:
    colour, marker, size, shift = MARKS[domain]
    axes.plot(values, [y + shift] * len(values), marker, color=colour, alpha=0.5, markersize=size, mew=0)
    axes.plot([values.mean()] * 2, [y + shift - 0.13, y + shift + 0.13], color=colour, linewidth=2)


def _domains(axes: Axes, found: pd.DataFrame, columns: list[str] | tuple[str, ...]) -> None:
    """The legend of the two domains, as far as there are values."""
    for domain, column in zip(DOMAINS, columns, strict=True):
        colour, marker, size, _ = MARKS[domain]
        if found[column].notna().any():
            axes.plot([], [], marker, color=colour, markersize=size, label=domain.replace("_", "-"))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
