"""File formats: a file becomes columns of exactly the values in it. Text is never interpreted as a number or a date."""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.arguments.encodings import OPENERS, WrongFile, check_names, decode, kind_of, read_bytes
from llmft.errors import InputError, one_line, quote

if TYPE_CHECKING:
    import pyarrow as pa

Table = dict[str, list[Any]]
"""Column -> its values, all columns equally long. csv and tsv contain only text."""
LINE_END = re.compile(r"\r*\n")
QUOTED = re.compile(r'"([^"]|"")*"')
"""A cell as a csv quotes it."""
SPACED = re.compile(r'(?:^|[,\r])[ \t]+"[^",\r\n][^"\r\n]*"[ \t]*(?:[,\r]|$)', re.MULTILINE)
"""A cell with white space before its quotes, which a csv reader therefore takes for text; a quoted cell holds nothing like it."""
LARGEST = 2**31 - 1
"""Limits that guard against damaged files are raised to this: a cell may hold a document, and a file may have many columns."""
DIGITS = 4000
"""Maximum digits of an integer; Python refuses to read more than 4300."""
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def read_file(path: Path, where: str, header: tuple[str, ...] = (), *, own: bool = False) -> Table:
    """Read a file according to its ending, one of `ENDINGS`, optionally followed by one of `OPENERS` if it is compressed.

    Args:
        where: flag and file, for the error.
        header: the columns of a tsv without a header line.
        own: whether these are the user's own rows. Their quotation marks in a tsv must then not be those of a csv; in GLUE's QQP
            they are, and are read as they stand.

    Raises:
        InputError: the file is missing or empty, its ending unknown, or it cannot be read in the format of its ending.
    """
    import pyarrow as pa

    check_file(path, where)
    ending = _ending(path)
    name = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() in OPENERS else ending
    try:
        return _tsv(path, header, own=own) if READERS[ending] is _tsv else READERS[ending](path)
    except WrongFile as error:
        raise InputError(f"{where}: cannot be read as {name[1:]}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: cannot be read as {name[1:]}: its values are nested too deeply; write flat rows") from error
    except (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise InputError(
            f"{where}: cannot be read as {name[1:]}: {one_line(error)}; fix the file, or its ending if that is wrong"
        ) from error


def check_file(path: Path, where: str) -> None:
    """Check a file as far as possible without reading it.

    Raises:
        InputError: as in `read_file`.
    """
    if path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
        raise InputError(f"{where}: is a folder of save_to_disk; name a file written by the data set's to_parquet")
    if path.is_dir():
        raise InputError(f"{where}: is a folder; name a file")
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise InputError(f"{where}: no such file, or it is not readable; check the path")
    if _ending(path) not in READERS:
        raise InputError(
            f"{where}: unknown ending {quote(path.suffix)}; use one of {' '.join(ENDINGS)} (text also compressed: "
            f"{' '.join(OPENERS)})"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{where}: the file is empty; name one with rows")


def split_lines(text: str) -> list[str]:
    """The lines of a text, with any line ends; a lone CR ends lines only if there are no other line ends (old Macs)."""
    return LINE_END.split(text) if "\n" in text else text.split("\r")


def csv_table(text: str) -> Table:
    """Columns of a csv.

    Raises:
        ValueError: it is not a valid csv, or a cell has white space before its quotation marks.
    """
    if spaced := SPACED.search(text):
        line, cell = len(split_lines(text[: spaced.start() + 1])), spaced[0].strip(",\r")
        raise WrongFile(f"line {line} has white space in front of a quoted cell, {quote(cell)}; remove it")
    limit, before = csv.field_size_limit(LARGEST), 0  # global to the process, and restored below
    rows: list[tuple[int, list[str]]] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for cells in reader:
            before = reader.line_num
            if cells and not rows:
                _check_separator(cells, ",")
            if cells:
                rows.append((before, cells))
    except csv.Error as error:
        raise ValueError(f"the row that begins in line {before + 1}: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return _columns(rows[0][1] if rows else [], rows[1:])


def _ending(path: Path) -> str:
    """The ending that determines the format; parquet has its own compression."""
    ending = path.suffix.lower()
    if ending in OPENERS:
        ending = Path(path.stem).suffix.lower()
        return "" if ending == ".parquet" else ending
    return ending


def _text(path: Path) -> str:
    text = decode(read_bytes(path), rows=True)
    if text[:100].lstrip().lower().startswith(("<!doctype html", "<html")):
        raise WrongFile("it is a web page; download the file itself")
    return text


def _parquet(path: Path) -> Table:
    from pyarrow import parquet

    with path.open("rb") as stream:
        what = None if stream.peek(4).startswith(b"PAR") else kind_of(stream.read(), rows=True)
    if what:
        raise WrongFile("it is {}; {}".format(*what))
    table = parquet.ParquetFile(path, thrift_string_size_limit=LARGEST, thrift_container_size_limit=LARGEST).read()
    _check_names(table.column_names)
    return {name: _cells(column) for name, column in zip(table.column_names, table.columns, strict=True)}


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """A column's values; times that Python cannot represent become text: they are hardly ever used."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except (ValueError, OverflowError, KeyError):
        return column.cast(pa.string()).to_pylist()


def _tsv(path: Path, header: tuple[str, ...] = (), *, own: bool = False) -> Table:
    """Columns of a tsv in the style of GLUE, PAWS and CoLA: a quote is text, and a tab always ends a cell.

    If `header` is given, the last cell takes the rest of its line.

    Raises:
        ValueError: it has no lines, or they differ in their number of cells.
        WrongFile: its cells are separated or quoted as in another format.
    """
    splits = len(header) - 1 if header else -1
    rows = [(number, line.split("\t", splits)) for number, line in enumerate(split_lines(_text(path)), 1) if line]
    if not rows:
        raise ValueError("it has no lines")
    if header:
        return _columns(list(header), rows)
    _check_separator(rows[0][1], "\t")
    marked = [cell for _, cells in rows for cell in cells if '"' in cell] if own else []
    with_comma = {cell for _, cells in rows for cell in cells if "," in cell}
    because_of_comma = bool(with_comma) and with_comma == {*marked}
    if (because_of_comma or any('""' in cell[1:-1] for cell in marked)) and all(map(QUOTED.fullmatch, marked)):
        raise WrongFile(
            "its cells are quoted as in a csv; save it as csv, or write it with quoting=csv.QUOTE_NONE (or as jsonl, if the "
            "quotation marks are text)"
        )
    return _columns(rows[0][1], rows[1:])


def _json(path: Path) -> Table:
    text = _text(path)
    if text.lstrip().startswith("["):
        return _records(enumerate(PARSER.decode(text), 1))
    try:
        whole = PARSER.decode(text)
    except ValueError:  # one object per line, or damaged
        return _records(_lines(text), "line")
    rows = [value for name, value in whole.items() if name == "data" or len(whole) == 1] if isinstance(whole, dict) else []
    if rows and isinstance(rows[0], list) and all(isinstance(record, dict) for record in rows[0]):
        return _records(enumerate(rows[0], 1))
    return _records([(1, whole)])


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            try:
                yield number, PARSER.decode(line)
            except ValueError as error:
                hint = " (it ends in a comma; write one object per line, without commas)" if line.rstrip().endswith(",") else ""
                raise ValueError(f"line {number}: {error}{hint}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) < len(pairs):
        _check_names([name for name, _ in pairs])
    return made


PARSER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < DIGITS else digits, object_pairs_hook=_object)


def _records(records: Iterable[tuple[int, Any]], kind: str = "row") -> Table:
    """Columns of JSON objects, each with its number; missing values are None."""
    rows = []
    for number, record in records:
        if not isinstance(record, dict):
            raise ValueError(f"{kind} {number} is not an object with a value for each column")
        rows.append(record)
    if len(rows) == 1 and rows[0] and all(map(_is_column, rows[0].values())):
        raise WrongFile("it is a single object of columns; write a list of rows (pandas: orient='records')")
    names = dict.fromkeys(name for record in rows for name in record)
    if not names:
        raise WrongFile("it has no rows; name another file")
    return {name: [record.get(name) for record in rows] for name in names}


def _is_column(value: Any) -> bool:
    """Whether a value is a column of values rather than a single value, which may be a list of objects, as in a conversation."""
    return isinstance(value, dict | list) and not (value and isinstance(value, list) and isinstance(value[0], dict))


def _check_separator(names: list[str], separator: str) -> None:
    """Reject a header of one column that contains the separator of another format."""
    if len(names) != 1:
        return
    other = next((mark for mark in SEPARATORS if mark in names[0] and mark != separator), None)
    if other:
        remedy = {"\t": "rename it to end in .tsv", ",": "rename it to end in .csv"}.get(other, "save it with commas")
        raise WrongFile(f"{SEPARATORS[other]} separates its columns ({quote(names[0])}), not {SEPARATORS[separator]}; {remedy}")


def _columns(names: list[str], rows: list[tuple[int, list[str]]]) -> Table:
    """Columns of cells. Columns without a name (pandas' index, Excel's empty ones) and empty rows at the end are dropped."""
    _check_names(names)
    while rows and len(rows[-1][1]) > 1 and not any(rows[-1][1]):
        rows.pop()
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(f"line {number} has {len(row)} cells, but there are {len(names)} columns")
    return {name: [row[i] for _, row in rows] for i, name in enumerate(names) if name}


def _check_names(names: list[str]) -> None:
    check_names([name for name in names if name], "columns")


READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": _parquet,
    ".jsonl": lambda path: _records(_lines(_text(path)), "line"),
    ".json": _json,
    ".csv": lambda path: csv_table(_text(path)),
    ".tsv": _tsv,
    ".txt": _tsv,
}
ENDINGS = tuple(READERS)
TEXT_ENDINGS = tuple(ending for ending in ENDINGS if ending != ".parquet")
"""Endings of files that may be compressed."""
