"""Pictures with a row for each method: the overview, memory, and the recovered gap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llmft.report.figures import panels
from llmft.report.figures.panels import GREY, Rows, Sheet, are_shares, name_rows, sheets_of_rows, without_rows
from llmft.report.figures.points import looks_of
from llmft.report.figures.svg import say
from llmft.report.records.names import EVALUATED, HEADINGS, headline_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = dict(zip(EVALUATED, (("#1b6ca8", "o", 5, -0.15), ("#d1603d", "D", 4, 0.15), ("#6f6f6f", "s", 4, 0.42)), strict=True))
"""Colour, marker, its size and its offset within a row; the colours can be told apart without colour vision."""
LIMITS = -100, 200
"""Per cent between which recovered gaps are drawn: if the teacher is hardly better, they can be of any size."""
GAPS = {domain: f"gap_recovered_{domain}" for domain in EVALUATED}


def draw_results(judged: pd.DataFrame, means: pd.DataFrame) -> Iterator[Sheet]:
    """Overview of all methods: their scores next to the tokens per query."""
    scores, most = judged[list(EVALUATED)], np.fmax(judged["tokens_per_query"].max(), 2)
    for rows, name in sheets_of_rows(means):
        figure, ((left, right),) = panels.subplots(1, 2, 0.9 + 0.3 * len(rows), sharey=True, width_ratios=(3, 1.2))
        for domain in EVALUATED:
            _dots(left, rows, judged[domain], domain, judged["tip"], means["tip"])
        tokens = {y: group["tokens_per_query"] for y, group in _groups(rows).items()}
        right.barh(list(tokens), list(tokens.values()), height=0.5, color="#8a8f98")
        for y, count in tokens.items():
            if count == count:
                right.text(count, y, f" {count:.0f}", va="center")
        name_rows(left, rows)
        without_rows(right)
        left.set_xlabel(headline_name(means.iloc[0]))
        if are_shares(scores):
            left.set_xlim(min(0.45, scores.min(axis=None) - 0.03), 1.02)
        right.set(xlabel="tokens per\nquery (log)", xscale="log", xlim=(1, 5 * most))
        panels.log_ticks(right.xaxis, 1, most)
        _domains(left, judged, {domain: domain for domain in EVALUATED})
        panels.note(figure, "Markers: runs, bars: their means; trained models after the last step.")
        yield Sheet(figure, name)


def draw_memory(means: pd.DataFrame) -> Iterator[Sheet]:
    """Peak and time-weighted mean of memory, also of the GPU if there was one."""
    kinds = {"rss": "memory of the processes", "gpu": "GPU memory"}
    shown = {kind: title for kind, title in kinds.items() if (means[f"{kind}_peak_bytes"] > 0).any()}
    if not shown:
        return
    unit, scale, digits = ("GiB", 2**30, 1) if means["rss_peak_bytes"].max() > 4 * 2**30 else ("MiB", 2**20, 0)
    looks = looks_of(means["look"])
    for rows, name in sheets_of_rows(means):
        figure, (table,) = panels.subplots(1, len(shown), 0.8 + 0.27 * len(rows), sharey=True)
        for axes, (kind, title) in zip(table, shown.items(), strict=True):
            for y, group in _groups(rows).items():
                peak, mean = (group[f"{kind}_{how}_bytes"] / scale for how in ("peak", "mean"))
                colour = looks[group["look"]].colour
                axes.barh(y, mean, height=0.3, color=colour)
                (bar,) = axes.barh(y, peak, height=0.7, color=colour, alpha=0.35)
                if peak == peak:
                    say(bar, [f"{group['tip']}\n{title}: peak {_mib(peak * scale)}, mean {_mib(mean * scale)}"])
                    axes.text(peak, y, f" {peak:.{digits}f}", va="center", fontsize=7)
            axes.set_xlabel(f"{title}, {unit}")
            axes.margins(x=0.1)
        name_rows(table[0], rows)
        for axes in table[1:]:
            without_rows(axes)
        panels.note(figure, "Wide and pale: peak, with its value; narrow: mean over time; for whole runs, means over seeds.")
        yield Sheet(figure, name)


def draw_gap(judged: pd.DataFrame, means: pd.DataFrame) -> Iterator[Sheet]:
    """The share of the gap between the model without a context and its teacher that training has closed."""
    gaps = judged[list(GAPS.values())]
    low, high = LIMITS
    beyond = ((100 * gaps < low) | (100 * gaps > high)).any(axis=None)
    cut = f" Values beyond {low} and {high} % are drawn at these limits." if beyond else ""
    for rows, name in sheets_of_rows(means.dropna(subset=list(GAPS.values()), how="all")):
        figure, ((axes,),) = panels.subplots(1, 1, 0.9 + 0.3 * len(rows))
        for domain, column in GAPS.items():
            said = f"\n{HEADINGS[domain]} gap recovered "
            tips = (judged["tip"] + said + judged[column].map("{:.1%}".format)).where(judged["tip"] != "", "")
            group_tips = means["tip"] + said + [_gap_text(judged.loc[members, column]) for members in means["members"]]
            _dots(axes, rows, 100 * judged[column], domain, tips, group_tips, LIMITS)
        name_rows(axes, rows)
        axes.set_xlabel("gap recovered, %")
        for place in (0, 100):
            axes.axvline(place, color=GREY, linewidth=0.8, linestyle="--", zorder=0.5)
        _domains(axes, judged, GAPS)
        panels.note(figure, f"0: as before training, 100: as the teacher with its context. Markers: runs, bars: means.{cut}")
        yield Sheet(figure, name)


def _gap_text(gaps: pd.Series) -> str:
    """Mean and deviation of the runs' gaps, and how many runs had one if not all did."""
    count = gaps.count()
    spread = f" ± {gaps.std():.1%}" if count > 1 else ""
    return f"{gaps.mean():.1%}{spread}" + (f" ({count} of {len(gaps)} runs)" if count < len(gaps) else "")


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB" if size == size else "-"


def _groups(rows: Rows) -> dict[int, pd.Series]:
    """The groups among the rows by their positions."""
    return {y: group for y, (_, group) in enumerate(rows) if group is not None}


def _dots(
    axes: Axes,
    rows: Rows,
    values: pd.Series,
    domain: str,
    tips: pd.Series,
    group_tips: pd.Series,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> None:
    """Draw a marker for each run, and a bar at the mean of each group; `group_tips` has the groups' labels in `means`. What is
    beyond the limits is drawn there."""
    colour, marker, size, shift = MARKS[domain]
    shown = [(y, group.name, values.loc[group["members"]].dropna()) for y, group in _groups(rows).items()]
    shown = [(y, label, runs) for y, label, runs in shown if len(runs)]
    if shown:
        runs = pd.concat([runs for *_, runs in shown])
        middles = np.array([y for y, *_ in shown]) + shift
        heights = np.repeat(middles, [len(runs) for *_, runs in shown])
        style = {"color": colour, "alpha": 0.5, "markersize": size, "mew": 0}
        (markers,) = axes.plot(runs.clip(*limits), heights, marker, **style)
        say(markers, tips.loc[runs.index])
        means = np.clip([runs.mean() for *_, runs in shown], *limits)
        bars = axes.vlines(means, middles - 0.13, middles + 0.13, color=colour, linewidth=2)
        say(bars, [group_tips[label] for _, label, _ in shown])


def _domains(axes: Axes, runs: pd.DataFrame, columns: dict[str, str]) -> None:
    """Draw the legend of the domains that have values."""
    for domain, column in columns.items():
        colour, marker, size, _ = MARKS[domain]
        if runs[column].notna().any():
            axes.plot([], [], marker, color=colour, markersize=size, label=HEADINGS[domain])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1)
