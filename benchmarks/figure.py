"""A results file as one picture of four panels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import all_rows, short
from llmft.runs.store import whole_file

OURS, OTHERS, FLOOR = "#1f5fa8", "#a9b4c2", "#c2410c"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the png."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    rows = list(all_rows(results))
    machine = results["machine"]
    _bars(
        panels[0, 0], [r for r in rows if r["part"] == "in-context" and "context" not in r["name"]], "Evaluation, 16 shots, RTE"
    )
    _bars(panels[0, 1], [r for r in rows if r["part"] == "distillation" and "pass" not in r["name"].split(",")[0]], "Training")
    _bars(panels[1, 0], [r for r in rows if r["part"] == "memory"], "Peak memory")
    _growth(panels[1, 1], results["parts"].get("growth", {}).get("shots", {}))
    figure.suptitle(
        f"OPT-125m shape, float32, {machine['processor']}, {machine['threads']} threads, {results['date']}", fontsize=11
    )
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=130)
    plt.close(figure)


def _bars(axes: Any, rows: list[Mapping[str, Any]], title: str) -> None:
    """Times or bytes as bars on a logarithmic scale, each with a mark at its floor."""
    axes.set_title(title, fontsize=10, loc="left")
    if not rows:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    rows = rows[::-1]
    places = range(len(rows))
    own = [row["name"].startswith(("llmft", "distillation", "fine-tuning")) for row in rows]
    axes.barh(places, [row["value"] for row in rows], color=[OURS if mine else OTHERS for mine in own], height=0.65)
    axes.scatter([row["floor"] for row in rows], places, color=FLOOR, marker="|", s=160, linewidths=2, label="floor", zorder=3)
    for place, row in zip(places, rows, strict=True):
        axes.text(row["value"] * 1.06, place, short(row["value"]), va="center", fontsize=8)
    axes.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    axes.set_xscale("log")
    low = min(row["floor"] for row in rows)
    axes.set_xlim(low / 2, max(row["value"] for row in rows) * 3)
    axes.set_xlabel(f"{rows[0]['unit']} (logarithmic)", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    axes.spines[["top", "right"]].set_visible(False)


def _growth(axes: Any, shots: Mapping[str, Mapping[str, float]]) -> None:
    """Time per example against the tokens of the context, with attention and everything else shown separately."""
    axes.set_title("Time behind an encoded context", fontsize=10, loc="left")
    tokens = [found["context_tokens"] for found in shots.values()]
    rest = [found["rest_s"] for found in shots.values()]
    attention = [found["attention_s"] for found in shots.values()]
    axes.stackplot(tokens, rest, attention, colors=[OTHERS, OURS], labels=["all else", "attention"], alpha=0.85)
    for count, found in shots.items():
        axes.annotate(count, (found["context_tokens"], found["seconds"]), fontsize=8, xytext=(0, 4),
                      textcoords="offset points", ha="center")  # fmt: skip
    axes.set_xlabel("tokens of the context (at the line: shots)", fontsize=9)
    axes.set_ylabel("s/example", fontsize=9)
    if tokens:
        axes.legend(fontsize=8, frameon=False, loc="upper left")
        axes.set_ylim(0, max(found["seconds"] for found in shots.values()) * 1.35)
        axes.set_xlim(right=max(tokens) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
