"""`python -m llmft.report FOLDER [--out FOLDER]`: the runs under a folder as tables, figures and a page."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llmft.report.commands import compare, diversity, show
from llmft.runs.program import exit_on_bad_input

SUBCOMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "show": show.main,
    "compare": compare.main,
    "diversity": diversity.main,
}
"""First word of the command line -> function for the rest. A folder with such a name must be given as ./NAME."""


def main(argv: Sequence[str] | None = None) -> None:
    """Report on a folder, or run the subcommand in the first word.

    Raises:
        InputError: there is nothing to report on.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in SUBCOMMANDS:
        SUBCOMMANDS[words[0]](words[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m llmft.report", description="Runs as tables, figures and a page.")
    parser.add_argument("folder", type=Path, help="the --output_dir of the runs")
    parser.add_argument("--out", type=Path, help="where the report goes; default: FOLDER/report")
    arguments = parser.parse_args(words)

    from llmft.report.commands.write import report

    report(arguments.folder, arguments.out or arguments.folder / "report")


if __name__ == "__main__":
    gc.disable()  # a short process with millions of objects: the cycle collector would take a fifth of its time
    with exit_on_bad_input():
        main()
