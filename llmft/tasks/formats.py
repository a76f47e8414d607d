"""File formats: a file becomes columns of the very values that are written in it. No text is guessed to be a number or a date."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmft.errors import InputError

Table = dict[str, list[Any]]
"""Column -> its values, all columns equally long. csv and tsv hold text alone."""


def read_file(path: Path, where: str, header: tuple[str, ...] = ()) -> Table:
    """Read a file by its ending, one of `ENDINGS`.

    Args:
        where: flag and file, for the error.
        header: the columns of a tsv whose first line does not name them.

    Raises:
        InputError: the file is missing or empty, its ending unknown, or it cannot be read as what its ending says.
    """
    import pyarrow as pa

    check_file(path, where)
    ending = path.suffix.lower()
    try:
        return _tsv(path, header) if header and READERS[ending] is _tsv else READERS[ending](path)
    except (ValueError, OSError, csv.Error, RecursionError, pa.ArrowException) as error:
        raise InputError(
            f"{where}: cannot be read as {ending[1:]}: {one_line(error)}; mend the file, or its ending if that is wrong"
        ) from error


def check_file(path: Path, where: str) -> None:
    """What can be said about a file before it is read.

    Raises:
        InputError: as `read_file`.
    """
    if path.is_dir():
        raise InputError(f"{where}: is a folder; name a file")
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise InputError(f"{where}: no such file that can be read; check the path")
    if path.suffix.lower() not in READERS:
        raise InputError(f"{where}: the ending {path.suffix!r} says no format; give one of {' '.join(ENDINGS)}")
    if path.stat().st_size == 0:
        raise InputError(f"{where}: the file is empty; give one with rows")


def one_line(error: object) -> str:
    """A message as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig")  # bytes, as reading text would change line ends inside cells


def _parquet(path: Path) -> Table:
    from pyarrow import parquet

    table = parquet.ParquetFile(path).read()
    _check_names(table.column_names)
    return {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}


def _csv(path: Path) -> Table:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    return _columns(next(reader, []), ((reader.line_num, cells) for cells in reader if cells))


def _tsv(path: Path, header: tuple[str, ...] = ()) -> Table:
    """Columns of a tsv as GLUE, PAWS and CoLA write it: a quote is text, and a tab always ends a cell.

    Where `header` is given, the last cell takes the rest of its line.
    """
    text = _text(path)
    lines = text.split("\r\n" if text.partition("\n")[0].endswith("\r") else "\n")
    splits = len(header) - 1 if header else -1
    rows = [(number, line.split("\t", splits)) for number, line in enumerate(lines, 1) if line]
    if not rows:
        raise ValueError("there is no line in it")
    return _columns(list(header), rows) if header else _columns(rows[0][1], rows[1:])


def _json_lines(path: Path) -> Table:
    return _objects(_text(path))


def _json(path: Path) -> Table:
    text = _text(path)
    return _records(enumerate(json.loads(text), 1)) if text.lstrip().startswith("[") else _objects(text)


def _objects(text: str) -> Table:
    def parse() -> Iterable[tuple[int, Any]]:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error

    return _records(parse())


def _records(records: Iterable[tuple[int, Any]]) -> Table:
    """Columns of JSON objects; what an object does not have is None."""
    found = []
    for number, record in records:
        if not isinstance(record, dict):
            raise ValueError(f"{number} is no object with a value for each column")
        found.append(record)
    names = dict.fromkeys(name for record in found for name in record)
    return {name: [record.get(name) for record in found] for name in names}


def _columns(names: list[str], rows: Iterable[tuple[int, list[str]]]) -> Table:
    _check_names(names)
    cells = []
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(f"line {number} has {len(row)} cells where there are {len(names)} columns")
        cells.append(row)
    return {name: [row[i] for row in cells] for i, name in enumerate(names)}


def _check_names(names: list[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two columns are called {twice[0]!r}")


READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _tsv,
}
ENDINGS = tuple(READERS)
