"""The output of `show --examples`: text answers, row by row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.report.commands.one_run import Run, understood
from llmft.report.records.examples import CHANGED, Example, Examples, read_examples
from llmft.report.records.names import metric_name, stage_name
from llmft.report.records.predictions import cannot_be_read

if TYPE_CHECKING:
    from rich.console import Console

LONG = 300
"""Maximum characters of a text to print."""
NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that would move the cursor or otherwise affect a terminal."""


def examples_of(run: Run, number: int) -> Examples:
    """A number of rows of a run.

    Raises:
        InputError: its answers are not texts, or cannot be read, or the number is below 1.
    """
    if number < 1:
        raise InputError(f"--examples {number}: must be 1 or more")
    try:
        with understood(run):
            examples = read_examples(run.path, run.metrics, number)
    except OSError as error:
        raise InputError(f"{run.path}: {cannot_be_read(error)}") from error
    if examples is None:
        raise InputError(f"--examples {number}: the answers of this run are labels, so there is no text to show; leave it out")
    return examples


def print_examples(console: Console, examples: Examples, headline: str) -> None:
    """Print the rows, in boxes if the console is a terminal."""
    counts = ", ".join(f"{count} {name}" for name, count in examples.counts.items())
    rest = f"; {examples.left_out} are not shown" if examples.left_out else ""
    console.print(f"Examples, with {metric_name(headline)}: {counts}{rest}", soft_wrap=True)
    for example in examples.rows:
        title = printable(f"{example.set} {example.idx}: {example.outcome}")
        lines = lines_of(example)
        if console.is_terminal:
            _print_box(console, title, lines, example.outcome)
        else:
            console.print("\n".join([title, *(f"  {name:<{_width(lines)}}  {text}" for name, text in lines)]), soft_wrap=True)


def lines_of(example: Example) -> list[tuple[str, str]]:
    """Names and texts of the lines printed for a row."""
    lines = [("document", example.document)] if example.document is not None else []
    lines += [("query", example.query), ("reference", " | ".join(example.reference))]
    lines = [(name, printable(text)) for name, text in lines]
    scored = {stage_name(stage): answer for stage, answer in example.answers.items()}
    return lines + [(name, f"{answer.score:.2f}  {printable(answer.text) or '(nothing)'}") for name, answer in scored.items()]


def printable(text: str) -> str:
    """A text as one line of at most `LONG` characters, with unprintable characters replaced."""
    short = text[:LONG].replace("\r\n", "\n").replace("\n", " ⏎ ").replace("\t", " ")
    short = NOT_PRINTED.sub(lambda found: ascii(found[0])[1:-1], short)
    return short if len(text) <= LONG else f"{short} ... ({len(text)} characters)"


def _width(lines: list[tuple[str, str]]) -> int:
    return max(len(name) for name, _ in lines)


def _print_box(console: Console, title: str, lines: list[tuple[str, str]], outcome: str) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, Text(text))
    colours = dict(zip(CHANGED, ("green", "red", "green", "red"), strict=True))
    console.print(Panel(table, title=Text(title), title_align="left", border_style=colours.get(outcome, "dim")))
