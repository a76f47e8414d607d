"""Single runs named on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError
from llmft.report.records.find import UNUSABLE, Unreadable, find_runs, read_record, unusable
from llmft.runs.summary import arguments_of

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Run:
    """The record of one finished run."""

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    cost: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name, including those about locations."""
        return arguments_of(self.config)

    @property
    def title(self) -> str:
        """A heading for the run."""
        return f"{self.config['method']} on {self.config['task']} with {self.config['model']}, {self.path.name}"


def find_run(name: str, folder: Path) -> Run:
    """The run given by its folder, or by the beginning of its folder's name, optionally with parent folders, under `folder`.

    Raises:
        InputError: there is none or more than one, or it is not finished.
    """
    path = Path(name)
    if not path.is_dir():
        runs = [run for run in find_runs(folder)[0] if _is_called(run.relative_to(folder), path)] if folder.is_dir() else []
        if not runs:
            raise InputError(f"{name}: no such folder, and no such run under {folder}; name a run's folder, or use --folder")
        if len(runs) > 1:
            first = ", ".join(str(run.relative_to(folder)) for run in runs[:3])
            raise InputError(f"{name}: {len(runs)} runs under {folder} have this name ({first}); write more of it")
        (path,) = runs
    try:
        record = read_record(path) if (path / "config.json").is_file() else None
    except Unreadable as error:
        raise InputError(f"{name}: {error}") from error
    if record is None:
        raise InputError(f"{name}: is not a run's folder, as it has no config.json of a run; name one that has")
    return Run(path, *record)


def _is_called(run: Path, name: Path) -> bool:
    """Whether a run's path ends in a name, whose last part may be abbreviated to its beginning."""
    ends = run.parts[-len(name.parts) :]
    return len(ends) == len(name.parts) > 0 and ends[:-1] == name.parts[:-1] and ends[-1].startswith(name.parts[-1])


@contextmanager
def understood(*runs: Run) -> Iterator[None]:
    """Context: errors caused by a malformed record become errors that name the run.

    Raises:
        InputError: the records lack something that the block needs.
    """
    try:
        yield
    except UNUSABLE as error:
        raise InputError(f"{' or '.join(str(run.path) for run in runs)}: {unusable(error)}") from error


def first_values(values: list[Any], most: int = 12) -> str:
    """A list's first values, and its length if there are more."""
    shown = " ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown} ... ({len(values)})"


def table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Table:
    """A table for a console without markup; the first `left` columns are text and the others numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right")
    for row in rows:
        table.add_row(*row)
    return table


def four_digits(value: float | None) -> str:
    """A number with four significant digits; integers in full."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
