"""Columns as they are written -> rows of `text1, text2, label, idx`, each value checked."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmft.errors import InputError
from llmft.tasks.formats import Table, one_line
from llmft.tasks.schema import EvalSet, Row, Source, Task

WHOLE_NUMBER = re.compile(r"-?[0-9]+")
BYTES_LITERAL = re.compile(r"""b(["']).*\1""", re.DOTALL)
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can write and no tokenizer can read."""
NO_LABEL = (None, "", -1, "-1")
"""How files write that a row has no label; -1 is the hub's way."""


def make_rows(table: Table, eval_set: EvalSet, task: Task, where: str) -> list[Row]:
    """The rows of a set, in the order of the table; those that the set leaves out are not in it.

    Unlabelled rows (-1) are left out too, unless the set's labels are optional.

    Args:
        where: flag and file, for the error.

    Raises:
        InputError: a column is missing or holds what it must not hold, a label is out of range, or no row is left.
    """
    source = eval_set.source
    names = dict(source.rename)
    table = {names[name] if name in names and names[name] not in table else name: table[name] for name in table}
    text1, text2 = eval_set.text_columns
    selecting = [column for column, _ in eval_set.where]
    needed = () if eval_set.label_optional else (eval_set.label_column,)
    missing = [c for c in (text1, text2, *needed, *selecting) if c and c not in table]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}; the columns are {one_line(', '.join(map(str, table)))}")
    table = _part(table, source, where)
    texts = {column: _texts(table[column], column, source.bytes_literals, where) for column in (text1, text2) if column}
    labels = _labels(table, eval_set, task, where)
    idx = _idx(table["idx"], where) if "idx" in table else range(len(labels))
    label_map = eval_set.label_map or tuple(range(len(task.label_names)))
    odd = sorted(set(labels) - {-1, *range(len(label_map))})
    if odd:
        raise InputError(f"{where}: label {odd[0]} is out of range; {task.name} has 0 to {len(label_map) - 1}")
    rows = [
        {
            "text1": texts[text1][i],
            "text2": texts[text2][i] if text2 else None,
            "label": None if label == -1 else label_map[label],
            "idx": idx[i],
            **{column: table[column][i] for column in selecting},
        }
        for i, label in enumerate(labels)
        if (eval_set.label_optional if label == -1 else label_map[label] is not None)
    ]
    rows = [
        row
        for row in rows
        if eval_set.label in (None, row["label"]) and all(row[column] == value for column, value in eval_set.where)
    ]
    if not rows:
        kind = "row" if eval_set.label_optional else "labelled row"
        raise InputError(f"{where}: there is no {kind} of {eval_set.name} in it; give another file")
    return rows


def has_label(value: Any, words: Sequence[str] = ()) -> bool:
    """Whether a cell of a label column holds a label rather than one of `NO_LABEL`; what is among `words` is one."""
    return value not in NO_LABEL or (value is not None and str(value) in words)


def _labels(table: Table, eval_set: EvalSet, task: Task, where: str) -> list[int]:
    """Every row's label as the source numbers it, -1 where it has none."""
    source, optional = eval_set.source, eval_set.label_optional
    if optional and eval_set.label_column not in table:
        return [-1] * len(table[eval_set.text_columns[0]])
    values = table[eval_set.label_column]
    return label_numbers(values, source.label_words, task, where, numbers=source.numbers, optional=optional)


def label_numbers(
    values: list[Any], words: tuple[str, ...], task: Task, where: str, *, numbers: bool = True, optional: bool = False
) -> list[int]:
    """Labels as numbers.

    Args:
        values: numbers, their digits, or `words`; one kind in a file.
        words: labels written as words, in the order of their numbers.
        task: whose labels they are, for the error.
        numbers: whether numbers may stand where there are words.
        optional: whether a value may be no label, which becomes -1.

    Raises:
        InputError: a value is none of these, or there are several kinds of them.
    """
    there = {row: value for row, value in enumerate(values) if not optional or has_label(value, words)}
    if kind_of_labels(there, where) == "number" and numbers:
        found = {row: int(value) for row, value in there.items()}
    elif words:
        place = {word: number for number, word in enumerate(words)}
        unknown = next((value for value in there.values() if str(value) not in place), None)
        if unknown is not None:
            raise InputError(f"{where}: label {unknown!r} is none of {', '.join(words)}; mend it, or list all with --label_names")
        found = {row: place[str(value)] for row, value in there.items()}
    else:
        odd = one_line(next(iter(there.values())))
        meant = ", ".join(name if name == str(i) else f"{i} {name}" for i, name in enumerate(task.label_names))
        raise InputError(
            f"{where}: label {odd!r} is text where a number is expected ({meant}); write numbers "
            "(text labels go with data of your own: --train_file, --label_names)"
        )
    return [found.get(row, -1) for row in range(len(values))]


def kind_of_labels(values: Mapping[int, Any], where: str) -> str:
    """`number`, where all labels (row, from 0 -> label) are whole numbers or their digits, else `text`.

    Raises:
        InputError: one is neither, or there are both.
    """
    kinds: dict[str, int] = {}
    for row, value in values.items():
        if type(value) is int or (isinstance(value, str) and WHOLE_NUMBER.fullmatch(value)):
            kinds.setdefault("number", row)
        elif isinstance(value, str) and value:
            kinds.setdefault("text", row)
        else:
            raise InputError(f"{where}: the label of row {row + 1} is {value!r}; write a whole number, or text, for each row")
    if len(kinds) > 1:
        raise InputError(
            f"{where}: the label of row {kinds['number'] + 1} is a number and that of row {kinds['text'] + 1} text; choose one"
        )
    return next(iter(kinds), "number")


def _part(table: Table, source: Source, where: str) -> Table:
    """The rows of the source's part, numbered anew. Of a file of another size, a first part is all of it."""
    part, size = source.part, len(next(iter(table.values())))
    if part is None or (size != part.of and part.start == 0):
        return table
    if size != part.of:
        raise InputError(
            f"{where}: has {size} rows and not {part.of}, those of the hub, the last of which are wanted; {source.hint}"
        )
    return {name: values[part.start : part.stop] for name, values in table.items() if name != "idx"}


def _texts(values: list[Any], column: str, bytes_literals: bool, where: str) -> list[str]:
    for row, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise InputError(f"{where}: column {column} holds a value that is not text, {value!r} in row {row}; mend the file")
        if SURROGATE.search(value):
            raise InputError(f"{where}: column {column} holds half a surrogate pair in row {row}; mend the file")
    return [_decode(value, where) for value in values] if bytes_literals else values


def _decode(cell: str, where: str) -> str:
    """The text that a Python literal of UTF-8 bytes stands for; a cell that is none stays as it is."""
    if not BYTES_LITERAL.fullmatch(cell):
        return cell
    try:
        literal = ast.literal_eval(cell)
    except (ValueError, SyntaxError):  # it only looks like one
        return cell
    try:
        return literal.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {one_line(cell)} holds bytes that are no UTF-8; mend the file") from error


def _idx(values: list[Any], where: str) -> list[int]:
    if not all(type(value) is int or (isinstance(value, str) and WHOLE_NUMBER.fullmatch(value)) for value in values):
        raise InputError(f"{where}: column idx holds what is no whole number; mend or drop it")
    idx = [int(value) for value in values]
    if len(set(idx)) < len(idx):
        raise InputError(f"{where}: column idx holds the same number twice; make it unique or drop it")
    return idx
