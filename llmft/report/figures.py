"""The summary as a picture: accuracy of every method, a marker a seed, beside what a query costs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from llmft.report.tables import method_name
from llmft.runs.store import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN, OUT = "#1b6ca8", "#d1603d"
"""Colours of in-domain and out-of-domain, told apart also without colour vision."""


def draw_results(final: pd.DataFrame, path: Path) -> None:
    """Write the picture of all final stages to `path` (PNG): a row a method, under a heading for each task and model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows: list[tuple[str, pd.DataFrame | None]] = []
    for (task, model), runs in final.groupby(["task", "model"], sort=False):
        rows.append((f"{task} ({model})", None))
        rows += [(method_name(group.iloc[0]), group) for _, group in runs.groupby(["method", "shots", "setting"], sort=False)]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.5, 1.2 + 0.45 * len(rows)), sharey=True, width_ratios=(3, 1.3), layout="constrained"
    )
    for y, (_, runs) in enumerate(rows):
        if runs is None:
            continue
        _draw_accuracies(left, y, runs)
        tokens = runs["tokens_per_query"].mean()
        right.barh(y, tokens, height=0.5, color="#8a8f98")
        right.text(tokens, y, f" {tokens:.0f}", va="center", fontsize=9)
    left.set_yticks(range(len(rows)), [name for name, _ in rows])
    for (_, runs), tick in zip(rows, left.yaxis.get_major_ticks(), strict=True):
        tick.tick1line.set_visible(runs is not None)
        tick.label1.set_fontweight("bold" if runs is None else "normal")
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
    lowest = final.reindex(columns=["in_domain", "out_of_domain"]).min().min()
    left.set_xlim(min(0.42, lowest - 0.03), 1.02)
    left.set_xlabel("accuracy (a dot a run, a bar their mean)")
    left.plot([], [], "o", color=IN, label="in-domain")
    if "out_of_domain" in final and final["out_of_domain"].notna().any():
        left.plot([], [], "D", color=OUT, markersize=5, label="out-of-domain")
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, frameon=False, borderaxespad=0.2)
    right.set_xscale("log")
    right.set_xlim(1, 3 * final["tokens_per_query"].max())
    right.set_xlabel("tokens per query (log)")
    right.tick_params(axis="y", length=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
    plt.close(figure)


def _draw_accuracies(axes: Axes, y: int, runs: pd.DataFrame) -> None:
    for column, colour, marker, shift in (("in_domain", IN, "o", -0.14), ("out_of_domain", OUT, "D", 0.14)):
        if column not in runs or runs[column].isna().all():
            continue
        axes.plot(runs[column], [y + shift] * len(runs), marker, color=colour, alpha=0.55, markersize=6 if marker == "o" else 5)
        axes.plot([runs[column].mean()] * 2, [y + shift - 0.12, y + shift + 0.12], color=colour, linewidth=2.5)
