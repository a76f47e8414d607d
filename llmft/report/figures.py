"""The report as pictures, each as PNG and PDF. A picture without anything to show is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.bars import draw_gap, draw_memory, draw_results
from llmft.report.curves import draw_training
from llmft.report.panels import (
    PANELS,
    STYLE,
    WIDTH,
    counted,
    grid,
    legend,
    note,
    panel_title,
    panels_left_out,
    scale_of_costs,
    shortened,
)
from llmft.report.points import DOMAINS, KEYS, front, groups, looks_of, points
from llmft.runs.store import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmft.report.collect import Collection


def draw_all(collection: Collection, majority: pd.DataFrame, out: Path) -> list[Path]:
    """Draw all pictures that have something to show.

    Args:
        collection: the runs.
        majority: `task`, and for each domain the share of the largest class, as accuracy of a constant answer.
        out: an existing folder.

    Returns:
        The files, a PNG and a PDF for each picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = points(collection)
    judged = found[found["judged"]]
    pictures: dict[str, Callable[[], Figure | None]] = {
        "results": lambda: draw_results(judged),
        "domains": lambda: draw_domains(judged, majority),
        "size": lambda: draw_size(judged),
        "cost": lambda: draw_cost(judged),
        "memory": lambda: draw_memory(judged),
        "training": lambda: draw_training(collection, judged),
        "gap": lambda: draw_gap(judged),
    }
    written = []
    with plt.rc_context(STYLE):
        for name, draw in pictures.items():
            figure = draw()
            if figure is None:
                continue
            for kind in ("png", "pdf"):
                dated = {"metadata": {"CreationDate": None}} if kind == "pdf" else {}  # same runs, same file
                with whole_file(out / f"{name}.{kind}") as aside:
                    figure.savefig(aside, format=kind, **dated)
                written.append(out / f"{name}.{kind}")
                figure.set_layout_engine("none")  # laid out once
            plt.close(figure)
    return written


def draw_domains(judged: pd.DataFrame, majority: pd.DataFrame) -> Figure | None:
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
        for _, group in runs.groupby(KEYS, sort=False, dropna=False):
            look = looks[group["look"].iloc[0]]
            style = {"marker": look.marker, "color": look.colour, "linestyle": ""}
            axes.plot(group["in_domain"], group["out_of_domain"], alpha=0.4, markersize=4, mew=0, **style)
            mean = group[list(DOMAINS)].mean()
            axes.plot(*mean, markersize=9, mec=look.colour, mew=1.3, fillstyle="none", zorder=3, **style)
        if task in lines.index:
            axes.axvline(lines.loc[task, "in_domain"], color="#777777", linewidth=0.8, linestyle="--", zorder=0.5)
            axes.axhline(lines.loc[task, "out_of_domain"], color="#777777", linewidth=0.8, linestyle="--", zorder=0.5)
        axes.plot([0, 1], [0, 1], color="#dddddd", linewidth=0.8, zorder=0.5)
        low = min(0.45, runs[list(DOMAINS)].min().min() - 0.03)
        axes.set(xlim=(low, 1.03), ylim=(low, 1.03), aspect="equal", title=panel_title(judged, task, model))
        axes.set(xlabel="in-domain accuracy", ylabel="out-of-domain accuracy")
        axes.label_outer()
    dashes = " Dashed: the largest class." if len(lines) else ""
    legend(figure, judged)
    note(
        figure,
        f"A small marker a run, a large one the mean of seeds; the last step of training.{dashes}{panels_left_out(left_out)}",
    )
    return figure


def draw_size(judged: pd.DataFrame) -> Figure | None:
    """Accuracy against the number of weights: a line a method and number of shots, bars are standard deviations over seeds."""
    import matplotlib.pyplot as plt

    sized = judged.dropna(subset=["weights"])
    sizes = sized.groupby("task")["weights"].nunique() if len(sized) else pd.Series(dtype=int)
    tasks = [task for task in sized["task"].unique() if sizes[task] > 1]
    if not tasks:
        return None
    shown = tasks[: PANELS // 2]
    figure, table = plt.subplots(
        len(shown), 2, figsize=(WIDTH, 0.9 + 2.2 * len(shown)), sharex=True, squeeze=False, layout="constrained"
    )
    looks, dropped = looks_of(judged["look"]), 0
    for task, row in zip(shown, table, strict=True):
        means = groups(sized[sized["task"] == task])
        lines = list(means.groupby(["look", "shots", "pattern", "differs"], sort=False))
        lines = [line for line in lines if line[1]["weights"].nunique() > 1]
        dropped += len(lines[PANELS:])
        for (key, shots, *_), line in lines[:PANELS]:
            several = len(line["shots"]) and means.loc[means["look"] == key, "shots"].nunique() > 1
            line = line.sort_values("weights")
            for axes, domain in zip(row, DOMAINS, strict=True):
                look = looks[key]
                axes.errorbar(
                    line["weights"], line[domain], line[f"{domain}_sd"].fillna(0), color=look.colour, marker=look.marker,
                    markersize=4, linewidth=1.2, elinewidth=0.7, alpha=0.9,
                )  # fmt: skip
                if several and pd.notna(line[domain].iloc[-1]):
                    end = (line["weights"].iloc[-1], line[domain].iloc[-1])
                    axes.annotate(
                        f"{shots:.0f}", end, (5, 0), textcoords="offset points", fontsize=6.5, va="center", color=look.colour
                    )
        for axes, domain in zip(row, DOMAINS, strict=True):
            axes.set(
                xscale="log",
                title=f"{shortened(task, 26)}, {domain.replace('_', '-')}",
                xlabel="" if task != shown[-1] else "weights",
            )
            axes.xaxis.set_major_formatter(lambda value, _: counted(value))
        row[0].set_ylabel("accuracy")
    legend(figure, sized)
    text = "Means and standard deviations over seeds; small numbers are shots."
    lines_out = f" {dropped} further lines are in report.csv." if dropped else ""
    note(figure, text + lines_out + panels_left_out(len(tasks) - len(shown)))
    return figure


def draw_cost(judged: pd.DataFrame) -> Figure | None:
    """Accuracy against CPU time, of a query and of training with its teacher; lines are Pareto fronts."""
    import matplotlib.pyplot as plt

    costs = {"cpu_ms_per_query": "CPU ms per query", "training_cpu_s": "CPU s of training and teacher"}
    shown = {name: title for name, title in costs.items() if (judged[name] > 0).any()}
    if not shown:
        return None
    panels = list(judged.groupby(["task", "model"], sort=False))
    rows = panels[: PANELS // 2]
    figure, table = plt.subplots(
        len(rows), len(shown), figsize=(WIDTH, 0.9 + 2.3 * len(rows)), sharey="row", squeeze=False, layout="constrained"
    )
    looks = looks_of(judged["look"])
    for ((task, model), runs), row in zip(rows, table, strict=True):
        means = groups(runs)
        for axes, (cost, title) in zip(row, shown.items(), strict=True):
            for domain, filled in zip(DOMAINS, (True, False), strict=True):
                for _, mean in means.iterrows():
                    look = looks[mean["look"]]
                    axes.plot(
                        mean[cost],
                        mean[domain],
                        look.marker,
                        color=look.colour,
                        mfc=None if filled else "white",
                        markersize=6,
                        zorder=3,
                    )
                best = means.loc[front(means[cost], means[domain])]
                style = {"color": "#444444", "linewidth": 0.9, "linestyle": "-" if filled else ":"}
                axes.step(best[cost], best[domain], where="post", zorder=1, **style)
            scale_of_costs(axes, means[cost])
            axes.set_xlabel(title if (task, model) == rows[-1][0] else "")
        row[0].set_ylabel("accuracy")
        row[0].set_title(panel_title(judged, task, model), loc="left")
    legend(figure, judged)
    text = "Filled: in-domain, hollow: out-of-domain; lines (dotted: out-of-domain) are what nothing cheaper beats."
    note(figure, text + panels_left_out(len(panels) - len(rows)))
    return figure
