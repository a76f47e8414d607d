"""Pictures of two measures: both domains, scores against model size, and scores against cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.figures import panels
from llmft.report.figures.panels import GREY, PANELS, Sheet, abbreviated, are_shares, sheet_name, sheets_of_panels
from llmft.report.figures.points import Look, family, front, looks_of
from llmft.report.figures.svg import say
from llmft.report.records.names import DOMAINS, HEADINGS, headline_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 12
"""If a panel has more groups than this, they are drawn with small markers."""
LINES = 12
"""If a task has more lines than this, each number of shots has its own panel."""
LETTER = 0.065
"""Height of a small number next to the end of a line, as a share of its panel's."""
COSTS = {"cpu_ms_per_query": "CPU ms per query", "training_cpu_s": "CPU s of training and teacher"}


def draw_domains(judged: pd.DataFrame, means: pd.DataFrame, majority: pd.DataFrame) -> Iterator[Sheet]:
    """In-domain against out-of-domain scores, a small marker for each seed and a large one for their mean.

    As in figure 1 of Mosbach et al. 2023, but panels are tasks and models, and colours are
    methods. Dashed lines: always answering the largest class.
    """
    looks = looks_of(judged["look"])
    dashes = " Dashed: the largest class." if len(majority) else ""
    for parts in sheets_of_panels(judged.dropna(subset=list(DOMAINS)), ["task", "model"], PANELS):
        figure, squares = panels.square_panels(len(parts))
        for axes, ((task, model), runs) in zip(squares, parts, strict=True):
            panel = means[(means["task"] == task) & (means["model"] == model)].dropna(subset=list(DOMAINS))
            _draw_domains(axes, looks, runs, panel, majority.loc[majority["task"] == task, list(DOMAINS)])
            spec, name = axes.get_subplotspec(), headline_name(panel.iloc[0])
            axes.set(
                title=panels.panel_title(judged, task, model),
                xlabel=f"in-domain {name}" if spec.is_last_row() else "",
                ylabel=f"out-of-domain {name}" if spec.is_first_col() else "",
            )
        panels.legend(figure, looks, pd.concat([runs["look"] for _, runs in parts]))
        panels.note(figure, f"Small markers: runs, large ones: means over seeds; the last step of training.{dashes}")
        yield Sheet(figure, sheet_name([f"{task} ({model})" for (task, model), _ in parts]))


def _draw_domains(axes: Axes, looks: Mapping[str, Look], runs: pd.DataFrame, means: pd.DataFrame, majority: pd.DataFrame) -> None:
    few = len(means) <= FEW
    small, large = ({"markersize": 4, "alpha": 0.4}, 9) if few else ({"markersize": 2.5, "alpha": 0.2}, 5)
    small, large = {**small, "mew": 0}, {"markersize": large, "mew": 1.3 if few else 1, "fillstyle": "none", "zorder": 3}
    for frame, size in ((runs, small), (means, large)):
        for key, points in frame.groupby("look", sort=False):
            style = {"marker": looks[key].marker, "color": looks[key].colour, "linestyle": ""}
            (markers,) = axes.plot(points["in_domain"], points["out_of_domain"], **style, **size)
            say(markers, points["tip"])
    for inside, outside in majority.to_numpy():
        axes.axvline(inside, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        axes.axhline(outside, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    shown = pd.concat([runs[list(DOMAINS)], majority])
    low, high = shown.min(axis=None), shown.max(axis=None)
    margin = 0.03 if are_shares(shown) else 0.05 * (high - low) or 1.0
    ends = low - margin, high + margin
    axes.plot(ends, ends, color="#dddddd", linewidth=0.8, zorder=0.5)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.locator_params(nbins=6)


def draw_size(means: pd.DataFrame) -> Iterator[Sheet]:
    """Scores against the number of weights: a line for each family of models, method, number of shots and pattern; bars are
    standard deviations over seeds."""
    keys = ["task", "look", "shots", "pattern", "differs", "family"]
    sized = means.dropna(subset=["weights"]).assign(family=means["model"].map(family))
    sized = sized[sized.groupby(keys, dropna=False)["weights"].transform("nunique") > 1]
    sized = sized.assign(line=sized.groupby(keys, sort=False, dropna=False).ngroup())
    many = sized.groupby("task")["line"].transform("nunique") > LINES
    sized = sized.assign(panel=sized["shots"].where(many, -1), place=pd.factorize(sized["task"])[0])
    sized = sized.sort_values(["place", "panel"], kind="stable")
    looks, families = looks_of(means["look"]), sized["family"].nunique() > 1
    for parts in sheets_of_panels(sized, ["task", "panel"], PANELS // 2):
        figure, table = panels.subplots(len(parts), 2, 0.9 + 2.2 * len(parts), sharex=True)
        names = [abbreviated(task, 26) + (f", {shots:.0f} shots" if shots >= 0 else "") for (task, shots), _ in parts]
        for (_, panel), name, row in zip(parts, names, table, strict=True):
            for axes, domain in zip(row, DOMAINS, strict=True):
                _draw_lines(axes, looks, panel, domain)
                axes.set_title(f"{name}, {HEADINGS[domain]}")
            row[0].set_ylabel(headline_name(panel.iloc[0]))
        for axes in table[-1]:
            axes.set_xlabel("weights")
        panels.legend(figure, looks, pd.concat([panel["look"] for _, panel in parts]))
        text = "Means and standard deviations over seeds" + ("." if many.all() else "; small numbers: shots.")
        panels.note(figure, text + (" Small words: model families." if families else ""))
        yield Sheet(figure, sheet_name(names))


def _draw_lines(axes: Axes, looks: Mapping[str, Look], panel: pd.DataFrame, domain: str) -> None:
    """Draw the lines of one panel, labelled at their ends if several belong to one method."""
    ends = []
    for _, line in panel.dropna(subset=[domain]).groupby("line", sort=False):
        first, same_look = line.iloc[0], panel[panel["look"] == line["look"].iloc[0]]
        line = line.sort_values("weights")
        look = looks[first["look"]]
        bars = axes.errorbar(
            line["weights"], line[domain], line[f"{domain}_sd"].fillna(0), color=look.colour, marker=look.marker,
            markersize=4, linewidth=1.2, elinewidth=0.7, alpha=0.9,
        )  # fmt: skip
        say(bars.lines[0], line["tip"])
        words = [abbreviated(first["family"], 14)] * (same_look["family"].nunique() > 1)
        words += [f"{first['shots']:.0f}"] * (same_look["shots"].nunique() > 1)
        if words:
            ends.append((line["weights"].iloc[-1], line[domain].iloc[-1], " ".join(words), look.colour))
    _write_ends(axes, ends)
    axes.set_xscale("log")
    panels.log_ticks(axes.xaxis, panel["weights"].min(), panel["weights"].max())


def _write_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write texts next to the ends of lines, (x, y, text, colour) each, moved up where they would overlap."""
    low, high = axes.get_ylim()
    last = -math.inf
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + LETTER * (high - low))
        axes.annotate(text, (x, last), (6, 0), textcoords="offset points", fontsize=6.5, va="center", color=colour)
    axes.set_ylim(low, max(high, last + LETTER / 2 * (high - low)))


def draw_cost(means: pd.DataFrame) -> Iterator[Sheet]:
    """Scores against CPU time, per query and of training with its teacher; lines are Pareto fronts."""
    shown = [cost for cost in COSTS if (means[cost] > 0).any()]
    if not shown:
        return
    looks = looks_of(means["look"])
    for parts in sheets_of_panels(means, ["task", "model"], PANELS // 2):
        figure, table = panels.subplots(len(parts), len(shown), 0.9 + 2.3 * len(parts), sharey="row")
        for ((task, model), panel), row in zip(parts, table, strict=True):
            for axes, cost in zip(row, shown, strict=True):
                _draw_costs(axes, looks, panel, cost)
            row[0].set_ylabel(headline_name(panel.iloc[0]))
            row[0].set_title(panels.panel_title(means, task, model), loc="left")
        for axes, cost in zip(table[-1], shown, strict=True):
            axes.set_xlabel(COSTS[cost])
        panels.legend(figure, looks, pd.concat([panel["look"] for _, panel in parts]))
        several = any(panel["precision"].nunique() > 1 for _, panel in parts)
        of_precision = ", each of one precision, which its best in-domain marker names; CPU times in others are not comparable"
        text = f"Filled: in-domain, hollow: out-of-domain; lines (dotted: out-of-domain): Pareto fronts{of_precision * several}."
        panels.note(figure, text)
        yield Sheet(figure, sheet_name([f"{task} ({model})" for (task, model), _ in parts]))


def _draw_costs(axes: Axes, looks: Mapping[str, Look], panel: pd.DataFrame, cost: str) -> None:
    for domain, filled in zip(DOMAINS, (True, False), strict=True):
        for key, points in panel.dropna(subset=[cost, domain]).groupby("look", sort=False):
            colour, marker = looks[key]
            style = {"mfc": colour if filled else "white", "markersize": 7 if filled else 4, "zorder": 3 if filled else 4}
            (markers,) = axes.plot(points[cost], points[domain], marker, color=colour, **style)
            costs = points[cost].map("{:,.2f}".format)
            say(markers, points["tip"] + f"\n{HEADINGS[domain]} marker; {COSTS[cost]}: " + costs)
        style = {"color": "#444444", "linewidth": 0.9, "linestyle": "-" if filled else ":"}
        for precision, same in panel.groupby("precision", sort=False):
            best = same.loc[front(same[cost], same[domain], higher_is_better=bool(same["higher_is_better"].iloc[0]))]
            axes.step(best[cost], best[domain], where="post", zorder=1, **style)
            if filled and len(best) and panel["precision"].nunique() > 1:
                place = best[cost].iloc[-1], best[domain].iloc[-1]
                axes.annotate(precision, place, (5, 4), textcoords="offset points", fontsize=5.5, color=GREY)
    panels.scale_of_costs(axes, panel[cost])
