"""A task made from the user's own files: any number of classes, in any of the file formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError, listed, quote
from llmft.runs.notes import say_note
from llmft.tasks.formats import Table, read_file
from llmft.tasks.rows import BOOLEANS, SECOND, UNLABELLED, kind_of_labels, plain_word, read_labels
from llmft.tasks.schema import EvalSet, NamedPattern, Source, Task
from llmft.tasks.table import PAIR, SINGLE

if TYPE_CHECKING:
    from llmft.arguments.data import DataArguments

NAME = "custom"
SETS = {
    "train_file": "train",
    "validation_file": "{task}",
    "out_of_domain_file": "{task}-out_of_domain",
    "test_file": "{task}-test",
}
"""Argument -> the name of the set in its file."""


def own_task(data: DataArguments, *, labels_needed: bool = True) -> Task:
    """The task of `--train_file`, `--validation_file` and, if given, `--out_of_domain_file` and `--test_file`.

    The training file determines its labels, and whether there is a second text. Label words are the labels'
    names; labels that are numbers without names have none.

    Args:
        labels_needed: whether every training row must have a label. If False, rows without one are training rows too, and
            if no row has one, the validation file determines the labels.

    Raises:
        InputError: a file or column is missing, the labels are not classes, or the arguments contradict each other.
    """
    where = f"--train_file {data.train_file}"
    table = read_file(Path(data.train_file), where, own=True)
    columns = text_columns(data, table, where)
    check_different(columns, "label_column", data.label_column)
    names, words = _labels(data, table, labels_needed=labels_needed)
    sets = own_sets(
        data,
        NAME,
        lambda argument, name, file: EvalSet(
            name,
            Source(file=file, flag=f"--{argument}", own=True, label_words=words, numbers=words in ((), BOOLEANS)),
            columns,
            label_column=data.label_column,
            answer_optional=argument == "train_file" and not labels_needed,
            columns_of=where,
        ),
    )
    return Task(
        name=NAME,
        version=1,
        label_names=names,
        patterns={"minimal": NamedPattern(PAIR if columns[1] else SINGLE, "", names if words or data.label_names else ())},
        **sets,
    )


def own_sets(data: DataArguments, task_name: str, make: Callable[[str, str, str], EvalSet]) -> dict[str, Any]:
    """The fields of a `Task` with the sets of the user's files.

    Args:
        make: makes a set from an argument, the name of the set, and a file.
    """
    sets = {
        argument: make(argument, name.format(task=task_name), file)
        for argument, name in SETS.items()
        if (file := getattr(data, argument)) is not None
    }
    return {
        "train": sets.get("train_file"),
        "in_domain": sets.get("validation_file"),
        "out_of_domain": tuple(s for argument, s in sets.items() if argument == "out_of_domain_file"),
        "test": tuple(s for argument, s in sets.items() if argument == "test_file"),
    }


def text_columns(data: DataArguments, table: Table, where: str) -> tuple[str, str | None]:
    """The columns of the texts in one of the user's own files.

    Raises:
        InputError: one is missing.
    """
    columns = (data.text1_column, data.text2_column or (SECOND if SECOND in table else None))
    for argument in ("text1_column", "text2_column"):
        if (column := getattr(data, argument)) is not None:
            check_column(table, argument, column, where)
    return columns


def check_different(columns: Sequence[str | None], argument: str, column: str) -> None:
    """Check that the column named by an argument differs from those of the texts.

    Raises:
        InputError: it does not, or both texts are in the same column.
    """
    used = [column for column in (*columns, column) if column]
    if len(set(used)) < len(used):
        noun = argument.removesuffix("_column")
        raise InputError(f"--{argument} {column}: texts and {noun} are columns {', '.join(used)}; they must differ")


def given(data: DataArguments, *arguments: str) -> bool:
    """Whether one of the arguments differs from its default."""
    defaults = {field.name: field.default for field in fields(data)}
    return any(getattr(data, argument) != defaults[argument] for argument in arguments)


def check_column(table: Table, argument: str, column: str, where: str) -> None:
    """Check that the column named by an argument exists.

    Args:
        where: flag and name of the table's file.

    Raises:
        InputError: it does not.
    """
    if column not in table:
        raise InputError(f"--{argument} {column}: {where} has {listed(table)}; name one of these")


def _labels(data: DataArguments, table: Table, *, labels_needed: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the labels in order, and the same names again if the files contain names rather than numbers, else ()."""
    given = tuple(name.strip() for name in data.label_names.split(",")) if data.label_names is not None else ()
    if given and (not all(given) or len(set(given)) < len(given) or len(given) < 2):
        raise InputError(f"--label_names {data.label_names}: give two or more different names (comma-separated)")
    labels, where = _label_cells(data, table, given, labels_needed=labels_needed)
    if not labels:
        raise InputError(f"{where}: the file has no rows; name another file")
    if kind_of_labels(labels, where) == "text":
        names = given or _label_names(labels, where)
        if len(names) < 2:
            raise InputError(
                f"{where}: {quote(names[0])} is the only label; there must be two or more, or list all with --label_names"
            )
        return names, names
    numbers = set(labels.values()) - {UNLABELLED}
    if given:
        _check_minus_one(given, {*labels.values()}, where)
        return given, ()
    if numbers != set(range(len(numbers))) or len(numbers) < 2:
        shown = ", ".join(quote(number) for number in sorted(numbers)[:20]) or "all -1"
        unlabelled = " (-1 means no label)" if UNLABELLED in labels.values() else ""
        raise InputError(
            f"{where}: the labels are {shown}{unlabelled}; number two or more from 0 without gaps, or name all with --label_names"
        )
    return tuple(map(str, sorted(numbers))), ()


def _check_minus_one(names: Sequence[str], numbers: set[int], where: str) -> None:
    """Check that -1 is not meant as the first of as many labels as there are names: -1, 0, 1, ..., or -1 and 1.

    Raises:
        InputError: it seems to be.
    """
    if numbers in ({*range(UNLABELLED, len(names) - 1)}, {UNLABELLED, 1}) and len(numbers) == len(names):
        written = ",".join(map(str, sorted(numbers)))
        raise InputError(
            f"--label_names {','.join(names)}: the labels of {where} are {written}, and -1 means no label; number them from 0 "
            f"and take out rows without a label, or write --label_names={written} and give words with --target_tokens"
        )


def _label_names(labels: dict[int, int | str], where: str) -> tuple[str, ...]:
    """The different names among the labels (row, from 0 -> name), sorted."""
    rows: dict[str, tuple[str, int]] = {}
    for row, label in labels.items():
        if label == UNLABELLED:
            continue
        other, other_row = rows.setdefault(plain_word(label), (label, row))
        if other != label:
            raise InputError(
                f"{where}: labels {quote(other)} (row {other_row + 1}) and {quote(label)} (row {row + 1}) differ only in "
                "case, spaces or Unicode form; spell them alike, or list all with --label_names"
            )
    return tuple(sorted(label for label, _ in rows.values()))


def _label_cells(
    data: DataArguments, table: Table, given: tuple[str, ...], *, labels_needed: bool
) -> tuple[dict[int, int | str], str]:
    """Row (from 0) -> label in the file that determines the labels, and flag and name of that file; `table` is the training
    file."""
    where = f"--train_file {data.train_file}"
    if not labels_needed:
        labels = _read_labels(table.get(data.label_column, ()), given, where, optional=True)
        if labels:
            return labels, where
        where = f"--validation_file {data.validation_file}"
        table = read_file(Path(data.validation_file), where, own=True)
    check_column(table, "label_column", data.label_column, where)
    return _read_labels(table[data.label_column], given, where, optional=False), where


def _read_labels(cells: Sequence[Any], given: tuple[str, ...], where: str, *, optional: bool) -> dict[int, int | str]:
    """The labels, matched to the given names if all of them match, else as they are written."""
    booleans = any(isinstance(cell, bool) for cell in cells)
    if booleans and len(given) == 2 and {name.lower() for name in given} != {"false", "true"}:
        say_note(f"--label_names {','.join(given)}: the labels of {where} are booleans; false is {given[0]}, true is {given[1]}")
    names = given or (BOOLEANS if booleans else ())
    labels = read_labels(cells, names, where, optional=optional)
    if set(labels.values()) <= {UNLABELLED, *names}:
        return labels
    return read_labels(cells, (), where, optional=optional)
