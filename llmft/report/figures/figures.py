"""The report's pictures, drawn once: as PNG and PDF, and as the SVG that the page shows. What needs more room than a sheet has
goes on on further ones; a picture without anything to show is left out."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from llmft.report.figures.bars import draw_gap, draw_memory, draw_results
from llmft.report.figures.curves import draw_training
from llmft.report.figures.panels import (
    PANELS,
    STYLE,
    WIDTH,
    Sheet,
    legend,
    log_ticks,
    note,
    panel_title,
    scale_of_costs,
    sheet_name,
    sheets_of_panels,
    shortened,
    square_panels,
)
from llmft.report.figures.points import DOMAINS, Look, family, front, groups, looks_of, points
from llmft.report.figures.svg import say
from llmft.report.figures.tips import domain_name, with_tips
from llmft.runs.store import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmft.report.records.collect import Collection


FEW = 12
"""More groups than these in a panel are drawn with small markers."""
LINES = 12
"""More lines of a task than these have a panel for each number of shots."""
LETTER = 0.065
"""Height of a small number beside the end of a line, as a share of its panel's."""
COSTS = {"cpu_ms_per_query": "CPU ms per query", "training_cpu_s": "CPU s of training and teacher"}


PICTURES = {
    "results": "Accuracy and tokens of a query",
    "domains": "In-domain and out-of-domain accuracy",
    "size": "Accuracy against model size",
    "cost": "Accuracy against cost",
    "memory": "Memory",
    "training": "Training",
    "gap": "Recovered gap",
}
"""Names of all pictures, and what they are called."""


class Drawn(NamedTuple):
    """A sheet of a picture.

    Attributes:
        picture: its name, of `PICTURES`.
        sheet: what the sheet shows.
        svg: as matplotlib wrote it, with what its marks say (`svg.say`).
        files: its PNG, and the PDF that has it as a page.
    """

    picture: str
    sheet: str
    svg: str
    files: list[Path]


def draw_all(collection: Collection, majority: pd.DataFrame, out: Path, names: Iterable[str] = PICTURES) -> list[Drawn]:
    """Draw the pictures that have something to show.

    Args:
        collection: the runs.
        majority: `task`, and for each domain the share of the largest class, as accuracy of a constant answer.
        out: an existing folder, for `<name>.pdf` of all sheets, `<name>.png` of the first, `<name>-2.png` of the next, and so on.
        names: of the pictures to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = points(collection)
    judged = found[found["judged"]]
    judged, means = with_tips(judged, groups(judged))
    pictures: dict[str, Callable[[], Iterator[Sheet]]] = {
        "results": lambda: draw_results(judged, means),
        "domains": lambda: draw_domains(judged, means, majority),
        "size": lambda: draw_size(means),
        "cost": lambda: draw_cost(means),
        "memory": lambda: draw_memory(means),
        "training": lambda: draw_training(collection, judged),
        "gap": lambda: draw_gap(judged, means),
    }
    with plt.rc_context(STYLE):
        return [drawn for name in names for drawn in _written(list(pictures[name]()), out, name)]


def _written(sheets: list[Sheet], out: Path, name: str) -> Iterator[Drawn]:
    """Write the files of a picture, and close its figures."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_pdf import PdfPages

    if not sheets:
        return
    pdf = out / f"{name}.pdf"
    with whole_file(pdf) as aside, PdfPages(aside, metadata={"CreationDate": None}) as pages:  # same runs, same file
        for number, (figure, sheet) in enumerate(sheets, 1):
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine(None)  # laid out once, not for each form
            pages.savefig(figure)
            png = out / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            with whole_file(png) as aside_png:
                figure.savefig(aside_png, format="png")
            svg = io.StringIO()
            figure.savefig(svg, format="svg", transparent=True)  # the page has its own ground
            plt.close(figure)
            yield Drawn(name, sheet, svg.getvalue(), [png, pdf])


def draw_domains(judged: pd.DataFrame, means: pd.DataFrame, majority: pd.DataFrame) -> Iterator[Sheet]:
    """In-domain against out-of-domain accuracy, a small marker a seed and a large one for their mean.

    As figure 1 of Mosbach et al. 2023, but panels are tasks and models, colours
    methods. Dashed lines: always answering the largest class.
    """
    lines = majority.set_index("task")
    looks = looks_of(judged["look"])
    dashes = " Dashed: the largest class." if len(lines) else ""
    both = judged.dropna(subset=list(DOMAINS))
    for parts in sheets_of_panels(both, ["task", "model"], PANELS):
        figure, panels = square_panels(len(parts))
        for axes, ((task, model), runs) in zip(panels, parts, strict=True):
            here = means[(means["task"] == task) & (means["model"] == model)].dropna(subset=list(DOMAINS))
            _draw_domains(axes, looks, runs, here, lines.loc[lines.index == task, list(DOMAINS)])
            spec = axes.get_subplotspec()
            axes.set(
                title=panel_title(judged, task, model),
                xlabel="in-domain accuracy" if spec.is_last_row() else "",
                ylabel="out-of-domain accuracy" if spec.is_first_col() else "",
            )
        legend(figure, looks, pd.concat([runs["look"] for _, runs in parts]))
        note(figure, f"A small marker a run, a large one the mean of seeds; the last step of training.{dashes}")
        yield Sheet(figure, sheet_name([f"{task} ({model})" for (task, model), _ in parts]))


def _draw_domains(axes: Axes, looks: dict[str, Look], runs: pd.DataFrame, means: pd.DataFrame, largest: pd.DataFrame) -> None:
    few = len(means) <= FEW
    small, large = ({"markersize": 4, "alpha": 0.4}, 9) if few else ({"markersize": 2.5, "alpha": 0.2}, 5)
    small, large = {**small, "mew": 0}, {"markersize": large, "mew": 1.3 if few else 1, "fillstyle": "none", "zorder": 3}
    for found, size in ((runs, small), (means, large)):
        for key, own in found.groupby("look", sort=False):
            style = {"marker": looks[key].marker, "color": looks[key].colour, "linestyle": ""}
            (markers,) = axes.plot(own["in_domain"], own["out_of_domain"], **style, **size)
            say(markers, own["tip"])
    for inside, outside in largest.to_numpy():
        axes.axvline(inside, color="#777777", linewidth=0.8, linestyle="--", zorder=1)
        axes.axhline(outside, color="#777777", linewidth=0.8, linestyle="--", zorder=1)
    axes.plot([0, 1], [0, 1], color="#dddddd", linewidth=0.8, zorder=0.5)
    shown = pd.concat([runs[list(DOMAINS)], largest])
    ends = shown.min(axis=None) - 0.03, shown.max(axis=None) + 0.03
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.locator_params(nbins=6)


def draw_size(means: pd.DataFrame) -> Iterator[Sheet]:
    """Accuracy against the number of weights: a line a family of models, method, number of shots and pattern, bars are standard
    deviations over seeds."""
    import matplotlib.pyplot as plt

    keys = ["task", "look", "shots", "pattern", "differs", "family"]
    sized = means.dropna(subset=["weights"]).assign(family=means["model"].map(family))
    sized = sized[sized.groupby(keys, dropna=False)["weights"].transform("nunique") > 1]
    sized = sized.assign(line=sized.groupby(keys, sort=False, dropna=False).ngroup())
    many = sized.groupby("task")["line"].transform("nunique") > LINES
    sized = sized.assign(panel=sized["shots"].where(many, -1), place=pd.factorize(sized["task"])[0])
    sized = sized.sort_values(["place", "panel"], kind="stable")
    looks, families = looks_of(means["look"]), sized["family"].nunique() > 1
    for parts in sheets_of_panels(sized, ["task", "panel"], PANELS // 2):
        figure, table = plt.subplots(
            len(parts), 2, figsize=(WIDTH, 0.9 + 2.2 * len(parts)), sharex=True, squeeze=False, layout="constrained"
        )
        names = [shortened(task, 26) + (f", {shots:.0f} shots" if shots >= 0 else "") for (task, shots), _ in parts]
        for (_, here), name, row in zip(parts, names, table, strict=True):
            for axes, domain in zip(row, DOMAINS, strict=True):
                _draw_lines(axes, looks, here, domain)
                axes.set_title(f"{name}, {domain_name(domain)}")
            row[0].set_ylabel("accuracy")
        for axes in table[-1]:
            axes.set_xlabel("weights")
        legend(figure, looks, pd.concat([here["look"] for _, here in parts]))
        text = "Means and standard deviations over seeds" + ("." if many.all() else "; small numbers are shots.")
        note(figure, text + (" Small words are families of models." if families else ""))
        yield Sheet(figure, sheet_name(names))


def _draw_lines(axes: Axes, looks: dict[str, Look], here: pd.DataFrame, domain: str) -> None:
    """The lines of one panel, what tells those of one method apart beside their ends."""
    ends = []
    for _, line in here.dropna(subset=[domain]).groupby("line", sort=False):
        first, own = line.iloc[0], here[here["look"] == line["look"].iloc[0]]
        line = line.sort_values("weights")
        look = looks[first["look"]]
        bars = axes.errorbar(
            line["weights"], line[domain], line[f"{domain}_sd"].fillna(0), color=look.colour, marker=look.marker,
            markersize=4, linewidth=1.2, elinewidth=0.7, alpha=0.9,
        )  # fmt: skip
        say(bars.lines[0], line["tip"])
        said = [shortened(first["family"], 14)] * (own["family"].nunique() > 1)
        said += [f"{first['shots']:.0f}"] * (own["shots"].nunique() > 1)
        if said:
            ends.append((line["weights"].iloc[-1], line[domain].iloc[-1], " ".join(said), look.colour))
    _write_ends(axes, ends)
    axes.set_xscale("log")
    log_ticks(axes.xaxis, here["weights"].min(), here["weights"].max())


def _write_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Texts beside the ends of lines, (x, y, text, colour) each, moved up where they would lie on one another."""
    low, high = axes.get_ylim()
    last = -math.inf
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + LETTER * (high - low))
        axes.annotate(text, (x, last), (6, 0), textcoords="offset points", fontsize=6.5, va="center", color=colour)
    axes.set_ylim(low, max(high, last + LETTER / 2 * (high - low)))


def draw_cost(means: pd.DataFrame) -> Iterator[Sheet]:
    """Accuracy against CPU time, of a query and of training with its teacher; lines are Pareto fronts."""
    import matplotlib.pyplot as plt

    shown = [cost for cost in COSTS if (means[cost] > 0).any()]
    if not shown:
        return
    looks = looks_of(means["look"])
    for parts in sheets_of_panels(means, ["task", "model"], PANELS // 2):
        figure, table = plt.subplots(
            len(parts), len(shown), figsize=(WIDTH, 0.9 + 2.3 * len(parts)), sharey="row", squeeze=False, layout="constrained"
        )
        for ((task, model), here), row in zip(parts, table, strict=True):
            for axes, cost in zip(row, shown, strict=True):
                _draw_costs(axes, looks, here, cost)
            row[0].set_ylabel("accuracy")
            row[0].set_title(panel_title(means, task, model), loc="left")
        for axes, cost in zip(table[-1], shown, strict=True):
            axes.set_xlabel(COSTS[cost])
        legend(figure, looks, pd.concat([here["look"] for _, here in parts]))
        note(figure, "Filled: in-domain, hollow: out-of-domain; lines (dotted: out-of-domain) are what nothing cheaper beats.")
        yield Sheet(figure, sheet_name([f"{task} ({model})" for (task, model), _ in parts]))


def _draw_costs(axes: Axes, looks: dict[str, Look], here: pd.DataFrame, cost: str) -> None:
    for domain, filled in zip(DOMAINS, (True, False), strict=True):
        for key, own in here.dropna(subset=[cost, domain]).groupby("look", sort=False):
            colour, marker = looks[key]
            style = {"mfc": colour if filled else "white", "markersize": 7 if filled else 4, "zorder": 3 if filled else 4}
            (markers,) = axes.plot(own[cost], own[domain], marker, color=colour, **style)
            costs = own[cost].map("{:,.2f}".format)
            say(markers, own["tip"] + f"\n{domain_name(domain)} marker; {COSTS[cost]}: " + costs)
        best = here.loc[front(here[cost], here[domain])]
        style = {"color": "#444444", "linewidth": 0.9, "linestyle": "-" if filled else ":"}
        axes.step(best[cost], best[domain], where="post", zorder=1, **style)
    scale_of_costs(axes, here[cost])
