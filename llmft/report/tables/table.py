"""The report's tables: what they are made of, and as Markdown and for a terminal. LaTeX is in `latex.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from rich.table import Table

TableRow = Mapping[str, Any]
NOTHING = "-"
"""What stands in a cell without a value."""
MOST_ROWS = 24
"""Rows of a table that a terminal gets."""
MARKUP = re.compile(r"""[|`\[~]|\\(?=[!-/:-@\[-`{-~])|\*(?=\S)|(?<![A-Za-z0-9])_(?=\S)|<(?=[A-Za-z/!?])|&(?=\#?\w+;)""", re.ASCII)
"""What Markdown would take for the beginning of something."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        text: what people read of a row.
        value: the raw number (or text) that it is sorted by; the text where there is none.
        mark: `better`, `worse` or nothing, for colour; the text says the same without it.
        left: whether it holds words, which stand at the left.
        wide: whether it is one for pages, not for terminals.
        stays: whether it is shown even if it says the same of all rows.
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
    """A titled table: rows hold raw values, columns say what is shown of them.

    Attributes:
        name: of files and anchors.
        notes: lines to stand below it, e.g. what a star means.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[TableRow]
    notes: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> list[list[str]]:
        """What people read, column by column; made once, several forms of the table need it."""
        return [[column.text(row) for row in self.rows] for column in self.columns]

    def cells(self) -> list[list[str]]:
        """What people read, row by row."""
        return [list(row) for row in zip(*self.texts, strict=True)]

    def narrow(self) -> ReportTable:
        """Without the columns that are for pages."""
        return self._only([place for place, column in enumerate(self.columns) if not column.wide], self.notes)

    def without_constant_columns(self) -> ReportTable:
        """Without the columns that have no value in any row, or that say the same of all rows and are there to tell them
        apart (`left` ones, unless they stay); a note has their values. One such column always stays."""

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
        """With some of the columns, whose texts are there already, and with these notes."""
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
    notes = [line for note in shown.notes for line in ("", re.sub(r"^\*", r"\\*", _literal(note)))]  # else it is a list's item
    return "\n".join([*lines, *notes]) + "\n"


def _literal(text: str) -> str:
    """Text of a line that Markdown prints as it is."""
    return MARKUP.sub(r"\\\g<0>", re.sub(r"[\r\n\t]+", " ", text))


def terminal(table: ReportTable, where: str) -> tuple[Table, list[str]]:
    """The table for a terminal (one that takes no text for markup), and the lines below it: its notes, and how many rows there
    are more of in the file `where`."""
    shown = table.narrow().without_constant_columns()
    out = Table(title=table.title, title_justify="left")
    for column in shown.columns:
        out.add_column(column.name, justify="left" if column.left else "right")
    for row in shown.cells()[:MOST_ROWS]:
        out.add_row(*row)
    more = len(table.rows) - MOST_ROWS
    return out, [*([f"{more} more rows: {where}"] if more > 0 else []), *shown.notes]


def rounded(value: Any, digits: int) -> str:
    """A rounded number; nothing where there is none."""
    return NOTHING if value is None or pd.isna(value) else f"{value:.{digits}f}"


def spread(mean: Any, sd: Any, digits: int) -> str:
    """Mean and, where there are several runs, standard deviation."""
    return rounded(mean, digits) + ("" if mean is None or pd.isna(mean) or pd.isna(sd) else f" ± {sd:.{digits}f}")
