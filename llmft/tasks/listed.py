"""Demonstrations listed in a file by their idx."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llmft.arguments.encodings import decode
from llmft.errors import InputError, one_line
from llmft.tasks.formats import csv_table
from llmft.tasks.rows import whole_number
from llmft.tasks.schema import Row


def listed_demonstrations(rows: Sequence[Row], file: str) -> list[Row]:
    """The rows whose idx a file lists, in the file's order.

    Args:
        file: as in `listed_idx`.

    Raises:
        InputError: the file cannot be read, or lists an idx that no row has, or lists one twice.
    """
    flag, wanted = f"--sample_indices_file {file}", listed_idx(file)
    by_idx = {row["idx"]: row for row in rows}
    missing = [idx for idx in wanted if idx not in by_idx]
    if missing:
        raise InputError(f"{flag}: no training row has idx {missing[0]}; list rows of the data in use")
    if len(set(wanted)) < len(wanted):
        raise InputError(f"{flag}: an idx is listed twice; list each row once")
    return [by_idx[idx] for idx in wanted]


def listed_idx(file: str) -> list[int]:
    """The numbers in a file: a csv with a column `idx` (as saved by upstream), or a JSON list.

    Raises:
        InputError: the file cannot be read.
    """
    flag, remedy = f"--sample_indices_file {file}", "name a csv with a column idx, or a .json list of idx"
    try:
        text = decode(Path(file).read_bytes())
        cells = json.loads(text) if file.endswith(".json") else csv_table(text)["idx"]
        if not isinstance(cells, list):
            raise TypeError(f"{type(cells).__name__} instead of a list")
        return [whole_number(cell) for cell in cells]
    except KeyError as error:
        raise InputError(f"{flag}: cannot be read (there is no column 'idx'); {remedy}") from error
    except (OSError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{flag}: cannot be read ({one_line(error)}); {remedy}") from error
