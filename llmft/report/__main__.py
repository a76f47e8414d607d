"""`python -m llmft.report FOLDER [--out FOLDER]`: the runs below a folder as tables and a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llmft.errors import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables; write `report.csv`, `report.md` and `results.png`.

    Raises:
        InputError: there is nothing to report on.
    """
    parser = argparse.ArgumentParser(prog="python -m llmft.report", description="Runs as tables and a picture.")
    parser.add_argument("folder", type=Path, help="the --output_dir of the runs")
    parser.add_argument("--out", type=Path, help="where the report goes; default: FOLDER/report")
    arguments = parser.parse_args(argv)

    from rich.console import Console

    from llmft.report.collect import collect, summarise
    from llmft.report.figures import draw_results
    from llmft.report.tables import CHECKPOINTS, DISTILLATION, RESULTS, markdown_table, terminal_table
    from llmft.runs.show import SELECTED
    from llmft.runs.store import whole_file

    collection = collect(arguments.folder)
    final = summarise(collection.final)
    distilled = summarise(collection.stages[collection.stages["method"].str.startswith("distill")])
    checkpoints = summarise(collection.checkpoints)
    out = arguments.out or arguments.folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 190)
    console.print(terminal_table("Results (mean ± standard deviation over runs)", RESULTS, final))
    text = markdown_table(RESULTS, final)
    if len(distilled):
        console.print(terminal_table("Distillation, stage by stage", DISTILLATION, distilled))
        text += "\n" + markdown_table(DISTILLATION, distilled)
    if len(checkpoints):
        console.print(terminal_table("Checkpoints of training", CHECKPOINTS, checkpoints))
        console.print(SELECTED)
        text += "\n" + markdown_table(CHECKPOINTS, checkpoints) + f"\n\\{SELECTED}\n"
    if collection.unfinished:
        console.print(f"unfinished, not counted: {', '.join(map(str, collection.unfinished))}")
    with whole_file(out / "report.csv") as aside:
        summarise(collection.stages).to_csv(aside, index=False)
    with whole_file(out / "report.md") as aside:
        aside.write_text(text, encoding="utf-8")
    draw_results(collection.final, out / "results.png")
    console.print(f"report: {out}/results.png, report.md, report.csv", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
