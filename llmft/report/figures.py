"""The report as pictures, each as PNG and PDF. A picture without anything to show is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.bars import draw_gap, draw_memory, draw_results
from llmft.report.curves import draw_training
from llmft.report.panels import (
    PANELS,
    STYLE,
    WIDTH,
    grid,
    legend,
    log_ticks,
    note,
    panel_title,
    panels_left_out,
    scale_of_costs,
    shortened,
)
from llmft.report.points import DOMAINS, family, front, groups, looks_of, points
from llmft.runs.store import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmft.report.collect import Collection


FEW = 12
"""More groups than these in a panel are drawn with small markers."""
LETTER = 0.065
"""Height of a small number beside the end of a line, as a share of its panel's."""


PICTURES = ("results", "domains", "size", "cost", "memory", "training", "gap")
"""Names of all pictures."""


def draw_all(collection: Collection, majority: pd.DataFrame, out: Path, names: Sequence[str] = PICTURES) -> list[Path]:
    """Draw the pictures that have something to show.

    Args:
        collection: the runs.
        majority: `task`, and for each domain the share of the largest class, as accuracy of a constant answer.
        out: an existing folder.
        names: of the pictures to draw.

    Returns:
        The files, a PNG and a PDF for each picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = points(collection)
    judged = found[found["judged"]]
    means = groups(judged)
    pictures: dict[str, Callable[[], Figure | None]] = {
        "results": lambda: draw_results(judged, means),
        "domains": lambda: draw_domains(judged, means, majority),
        "size": lambda: draw_size(means),
        "cost": lambda: draw_cost(means),
        "memory": lambda: draw_memory(means),
        "training": lambda: draw_training(collection, judged),
        "gap": lambda: draw_gap(judged, means),
    }
    written = []
    with plt.rc_context(STYLE):
        for name in names:
            figure = pictures[name]()
            if figure is None:
                continue
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine(None)  # laid out once, not for each form
            for kind in ("png", "pdf"):
                dated = {"metadata": {"CreationDate": None}} if kind == "pdf" else {}  # same runs, same file
                with whole_file(out / f"{name}.{kind}") as aside:
                    figure.savefig(aside, format=kind, **dated)
                written.append(out / f"{name}.{kind}")
            plt.close(figure)
    return written


def draw_domains(judged: pd.DataFrame, means: pd.DataFrame, majority: pd.DataFrame) -> Figure | None:
    """In-domain against out-of-domain accuracy, a small marker a seed and a large one for their mean.

    As figure 1 of Mosbach et al. 2023, but panels are tasks and models, colours
    methods. Dashed lines: always answering the largest class.
    """
    both = judged.dropna(subset=list(DOMAINS))
    if both.empty:
        return None
    figure, panels, left_out = grid(both, ["task", "model"])
    lines = majority.set_index("task")
    looks = looks_of(judged["look"])
    for axes, ((task, model), runs) in panels:
        here = means[(means["task"] == task) & (means["model"] == model)]
        few = len(here) <= FEW
        small, large = ({"markersize": 4, "alpha": 0.4}, 9) if few else ({"markersize": 2.5, "alpha": 0.2}, 5)
        for key, own in here.groupby("look", sort=False):
            style = {"marker": looks[key].marker, "color": looks[key].colour, "linestyle": ""}
            seeds = runs[runs["look"] == key]
            axes.plot(seeds["in_domain"], seeds["out_of_domain"], mew=0, **small, **style)
            axes.plot(
                own["in_domain"],
                own["out_of_domain"],
                markersize=large,
                mew=1.3 if few else 1,
                fillstyle="none",
                zorder=3,
                **style,
            )
        if task in lines.index:
            axes.axvline(lines.loc[task, "in_domain"], color="#777777", linewidth=0.8, linestyle="--", zorder=1)
            axes.axhline(lines.loc[task, "out_of_domain"], color="#777777", linewidth=0.8, linestyle="--", zorder=1)
        axes.plot([0, 1], [0, 1], color="#dddddd", linewidth=0.8, zorder=0.5)
        shown = pd.concat([runs[list(DOMAINS)], lines.loc[lines.index == task, list(DOMAINS)]])
        ends = shown.min(axis=None) - 0.03, shown.max(axis=None) + 0.03
        axes.set(xlim=ends, ylim=ends, aspect="equal", title=panel_title(judged, task, model))
        axes.locator_params(nbins=6)
        spec = axes.get_subplotspec()
        axes.set_xlabel("in-domain accuracy" if spec.is_last_row() else "")
        axes.set_ylabel("out-of-domain accuracy" if spec.is_first_col() else "")
    dashes = " Dashed: the largest class." if len(lines) else ""
    legend(figure, judged)
    note(
        figure,
        f"A small marker a run, a large one the mean of seeds; the last step of training.{dashes}{panels_left_out(left_out)}",
    )
    return figure


def draw_size(means: pd.DataFrame) -> Figure | None:
    """Accuracy against the number of weights: a line a family of models, method and number of shots, bars are standard
    deviations over seeds."""
    import matplotlib.pyplot as plt

    keys = ["task", "look", "shots", "pattern", "differs", "family"]
    sized = means.dropna(subset=["weights"]).assign(family=means["model"].map(family))
    sized = sized[sized.groupby(keys, dropna=False)["weights"].transform("nunique") > 1]
    tasks = list(sized["task"].unique())
    if not tasks:
        return None
    shown = tasks[: PANELS // 2]
    figure, table = plt.subplots(
        len(shown), 2, figsize=(WIDTH, 0.9 + 2.2 * len(shown)), sharex=True, squeeze=False, layout="constrained"
    )
    looks, dropped = looks_of(means["look"]), 0
    for task, row in zip(shown, table, strict=True):
        here = sized[sized["task"] == task]
        lines = list(here.groupby(keys[1:], sort=False, dropna=False))
        turns = pd.Series([look for (look, *_), _ in lines], dtype=object)
        turns = turns.groupby(turns, sort=False).cumcount()
        lines = [lines[place] for place in turns.sort_values(kind="stable").index]  # a line of every method, then second ones
        dropped += len(lines[PANELS:])
        ends: dict[str, list[tuple[float, float, str, str]]] = {domain: [] for domain in DOMAINS}
        for (key, shots, *_, name), line in lines[:PANELS]:
            own = here[here["look"] == key]
            said = [shortened(name, 14)] * (own["family"].nunique() > 1) + [f"{shots:.0f}"] * (own["shots"].nunique() > 1)
            line = line.sort_values("weights")
            for axes, domain in zip(row, DOMAINS, strict=True):
                look = looks[key]
                axes.errorbar(
                    line["weights"], line[domain], line[f"{domain}_sd"].fillna(0), color=look.colour, marker=look.marker,
                    markersize=4, linewidth=1.2, elinewidth=0.7, alpha=0.9,
                )  # fmt: skip
                if said and pd.notna(line[domain].iloc[-1]):
                    ends[domain].append((line["weights"].iloc[-1], line[domain].iloc[-1], " ".join(said), look.colour))
        for axes, domain in zip(row, DOMAINS, strict=True):
            _write_ends(axes, ends[domain])
            axes.set(
                xscale="log",
                title=f"{shortened(task, 26)}, {domain.replace('_', '-')}",
                xlabel="" if task != shown[-1] else "weights",
            )
            log_ticks(axes.xaxis, here["weights"].min(), here["weights"].max())
        row[0].set_ylabel("accuracy")
    legend(figure, sized)
    text = "Means and standard deviations over seeds; small numbers are shots."
    text += " Small words are families of models." if sized["family"].nunique() > 1 else ""
    lines_out = f" {dropped} further lines are in report.csv." if dropped else ""
    note(figure, text + lines_out + panels_left_out(len(tasks) - len(shown)))
    return figure


def _write_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Texts beside the ends of lines, (x, y, text, colour) each, moved up where they would lie on one another."""
    low, high = axes.get_ylim()
    last = -math.inf
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + LETTER * (high - low))
        axes.annotate(text, (x, last), (6, 0), textcoords="offset points", fontsize=6.5, va="center", color=colour)
    axes.set_ylim(low, max(high, last + LETTER / 2 * (high - low)))


def draw_cost(means: pd.DataFrame) -> Figure | None:
    """Accuracy against CPU time, of a query and of training with its teacher; lines are Pareto fronts."""
    import matplotlib.pyplot as plt

    costs = {"cpu_ms_per_query": "CPU ms per query", "training_cpu_s": "CPU s of training and teacher"}
    shown = {name: title for name, title in costs.items() if (means[name] > 0).any()}
    if not shown:
        return None
    panels = list(means.groupby(["task", "model"], sort=False))
    rows = panels[: PANELS // 3]
    figure, table = plt.subplots(
        len(rows), len(shown), figsize=(WIDTH, 0.9 + 2.3 * len(rows)), sharey="row", squeeze=False, layout="constrained"
    )
    looks = looks_of(means["look"])
    for ((task, model), here), row in zip(rows, table, strict=True):
        for axes, (cost, title) in zip(row, shown.items(), strict=True):
            for domain, filled in zip(DOMAINS, (True, False), strict=True):
                for key, own in here.groupby("look", sort=False):
                    colour, marker = looks[key]
                    style = {"mfc": colour if filled else "white", "markersize": 7 if filled else 4, "zorder": 3 if filled else 4}
                    axes.plot(own[cost], own[domain], marker, color=colour, **style)
                best = here.loc[front(here[cost], here[domain])]
                style = {"color": "#444444", "linewidth": 0.9, "linestyle": "-" if filled else ":"}
                axes.step(best[cost], best[domain], where="post", zorder=1, **style)
            scale_of_costs(axes, here[cost])
            axes.set_xlabel(title if (task, model) == rows[-1][0] else "")
        row[0].set_ylabel("accuracy")
        row[0].set_title(panel_title(means, task, model), loc="left")
    legend(figure, means)
    text = "Filled: in-domain, hollow: out-of-domain; lines (dotted: out-of-domain) are what nothing cheaper beats."
    note(figure, text + panels_left_out(len(panels) - len(rows)))
    return figure
