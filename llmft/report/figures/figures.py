"""The report's pictures, drawn once: as PNG and PDF, and as the SVG in the page. Pictures that do not fit on one sheet continue
on further ones; pictures without data are left out."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from llmft.report.figures.bars import draw_gap, draw_memory, draw_results
from llmft.report.figures.curves import draw_training
from llmft.report.figures.panels import STYLE, Sheet
from llmft.report.figures.points import mean_points, with_tips
from llmft.report.figures.scatters import draw_cost, draw_domains, draw_size
from llmft.report.records.names import metric_name
from llmft.runs.store import whole_file

if TYPE_CHECKING:
    from llmft.report.records.collect import Collection

PICTURES = {
    "results": "Scores and tokens per query",
    "domains": "In-domain and out-of-domain scores",
    "size": "Scores against model size",
    "cost": "Scores against cost",
    "memory": "Memory",
    "training": "Training",
    "gap": "Recovered gap",
}
"""Names of all pictures, and their titles."""


class Drawn(NamedTuple):
    """A sheet of a picture.

    Attributes:
        picture: its name, a key of `PICTURES`.
        sheet: what the sheet shows.
        svg: matplotlib's output, with the tooltips of its marks (`svg.say`).
        files: its PNG, and the PDF that contains it as a page.
    """

    picture: str
    sheet: str
    svg: str
    files: list[Path]


def draw_all(
    collection: Collection, runs: pd.DataFrame, majority: pd.DataFrame, out: Path, names: Iterable[str] = PICTURES
) -> list[Drawn]:
    """Draw the pictures that have data; runs with different headline metrics are on different sheets.

    Args:
        runs: the result of `points`.
        majority: the result of `summary.majority_of_tasks`.
        out: an existing folder, for `<name>.pdf` of all sheets, `<name>.png` of the first, `<name>-2.png` of the next, and so on.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_headline = list(runs[runs["judged"]].groupby("headline", sort=False))
    parts = [(headline, *with_tips(judged, mean_points(judged))) for headline, judged in by_headline]

    def sheets(name: str) -> Iterator[Sheet]:
        for headline, judged, means in parts:
            draw, *frames = {
                "results": (draw_results, judged, means),
                "domains": (draw_domains, judged, means, majority[majority["headline"] == headline]),
                "size": (draw_size, means),
                "cost": (draw_cost, means),
                "memory": (draw_memory, means),
                "training": (draw_training, collection, judged),
                "gap": (draw_gap, judged, means),
            }[name]
            for figure, sheet in draw(*frames):
                yield Sheet(figure, sheet + (f", {metric_name(headline)}" if len(parts) > 1 else ""))

    with plt.rc_context(STYLE):
        return [drawn for name in names for drawn in write_sheets(list(sheets(name)), out, name)]


def write_sheets(sheets: list[Sheet], out: Path, name: str) -> Iterator[Drawn]:
    """Write the files of a picture to an existing folder, and close its figures; nothing if there are no sheets."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_pdf import PdfPages

    if not sheets:
        return
    pdf = out / f"{name}.pdf"
    with whole_file(pdf) as aside, PdfPages(aside, metadata={"CreationDate": None}) as pages:  # the same runs give the same file
        for number, (figure, sheet) in enumerate(sheets, 1):
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine(None)  # laid out once, not for each format
            pages.savefig(figure)
            png = out / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            with whole_file(png) as aside_png:
                figure.savefig(aside_png, format="png")
            svg = io.StringIO()
            figure.savefig(svg, format="svg", transparent=True)  # the page has its own ground
            plt.close(figure)
            yield Drawn(name, sheet, svg.getvalue(), [png, pdf])
