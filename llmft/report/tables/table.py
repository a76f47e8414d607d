"""The report's tables, their columns, and their output as Markdown and for a terminal. LaTeX is in `latex.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from rich.table import Table

TableRow = Mapping[str, Any]
KIB, MIB = 2**10, 2**20
NOTHING = "-"
"""Text of a cell without a value."""
MOST_ROWS = 24
"""Maximum rows of a table on a terminal."""
MARKUP = re.compile(r"""[|`\[~]|\\(?=[!-/:-@\[-`{-~])|\*(?=\S)|(?<![A-Za-z0-9])_(?=\S)|<(?=[A-Za-z/!?])|&(?=\#?\w+;)""", re.ASCII)
"""Characters that Markdown would treat as markup."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        text: the displayed text for a row.
        value: the raw number (or text) to sort by; default: the text.
        mark: `better`, `worse` or nothing, for colour; the text has the same information.
        left: whether it contains words, which are aligned left.
        wide: whether it is only for pages, not for terminals.
        stays: whether it is shown even if it is the same in all rows.
    """

    name: str
    text: Callable[[TableRow], str]
    value: Callable[[TableRow], Any] | None = None
    mark: Callable[[TableRow], str] | None = None
    left: bool = False
    wide: bool = False
    stays: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A titled table: rows hold raw values, and columns define what is shown.

    Attributes:
        name: name of files and anchors.
        notes: lines below the table, e.g. the meaning of a star.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[TableRow]
    notes: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> list[list[str]]:
        """The displayed texts, column by column; computed once for all output formats."""
        return [[column.text(row) for row in self.rows] for column in self.columns]

    def cells(self) -> list[list[str]]:
        """The displayed texts, row by row."""
        return [list(row) for row in zip(*self.texts, strict=True)]

    def narrow(self) -> ReportTable:
        """The table without the columns that are only for pages."""
        return self._only([place for place, column in enumerate(self.columns) if not column.wide], self.notes)

    def without_constant_columns(self) -> ReportTable:
        """The table without columns that have no value in any row, and without those that should distinguish rows (`left` ones,
        unless they stay) but are the same in all; a note has their values. At least one `left` column is kept."""

        def constant(column: Column, cells: Sequence[str]) -> bool:
            return column.left and not column.stays and len(cells) > 1 and len({*cells}) == 1

        filled = [place for place, cells in enumerate(self.texts) if {*cells} - {NOTHING, ""}]
        kept = [place for place in filled if not constant(self.columns[place], self.texts[place])]
        if not any(self.columns[place].left for place in kept):
            kept = [*[place for place, column in enumerate(self.columns) if column.left][-1:], *kept]
        values = [f"{self.columns[place].name} {self.texts[place][0]}" for place in filled if place not in kept]
        notes = (f"All rows: {', '.join(values)}.", *self.notes) if values else self.notes
        return self._only(kept, notes) if kept else self

    def _only(self, places: Sequence[int], notes: tuple[str, ...]) -> ReportTable:
        """The table with only these columns, whose texts are reused, and with these notes."""
        made = replace(self, columns=tuple(self.columns[place] for place in places), notes=notes)
        vars(made)["texts"] = [self.texts[place] for place in places]
        return made


def markdown(table: ReportTable) -> str:
    """The table with title and notes as Markdown."""
    shown = table.without_constant_columns()
    lines = [f"## {_literal(table.title)}", ""]
    lines.append("| " + " | ".join(_literal(column.name) for column in shown.columns) + " |")
    lines.append("|" + "|".join("---" if column.left else "---:" for column in shown.columns) + "|")
    lines += ["| " + " | ".join(map(_literal, row)) + " |" for row in shown.cells()]
    notes = [
        line for note in shown.notes for line in ("", re.sub(r"^\*", r"\\*", _literal(note)))
    ]  # else it would be a list item
    return "\n".join([*lines, *notes]) + "\n"


def _literal(text: str) -> str:
    """One line of text that Markdown prints verbatim."""
    return MARKUP.sub(r"\\\g<0>", re.sub(r"[\r\n\t]+", " ", text))


def terminal(table: ReportTable, where: str) -> tuple[Table, list[str]]:
    """The table for a terminal (without markup), and the lines below it: its notes, and how many more rows are in the file
    `where`."""
    shown = table.narrow().without_constant_columns()
    out = Table(title=table.title, title_justify="left")
    for column in shown.columns:
        out.add_column(column.name, justify="left" if column.left else "right")
    for row in shown.cells()[:MOST_ROWS]:
        out.add_row(*row)
    more = len(table.rows) - MOST_ROWS
    return out, [*([f"{more} more rows: {where}"] if more > 0 else []), *shown.notes]


def rounded(value: Any, digits: int) -> str:
    """A rounded number; `NOTHING` if there is none."""
    return NOTHING if value is None or pd.isna(value) else f"{value:.{digits}f}"


def spread(mean: Any, sd: Any, digits: int) -> str:
    """Mean and, if there are several runs, standard deviation."""
    return rounded(mean, digits) + ("" if mean is None or pd.isna(mean) or pd.isna(sd) else f" ± {sd:.{digits}f}")
