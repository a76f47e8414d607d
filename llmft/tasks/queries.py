"""Queries of a user's file for distillation, which needs no labels of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError, listed
from llmft.runs.notes import say_note
from llmft.tasks.formats import Table, read_file
from llmft.tasks.rows import make_rows
from llmft.tasks.schema import EvalSet, Row, Source, Task
from llmft.tasks.user_files import check_column

if TYPE_CHECKING:
    from llmft.arguments.data import DataArguments


FLAG = "--query_file"


def query_source(file: str) -> Source:
    """Where the queries lie, for `fingerprint_data`."""
    return Source(file=file, flag=FLAG)


def load_queries(file: str, data: DataArguments, task: Task, *, labels: bool = True, quiet: bool = False) -> list[Row]:
    """The rows of `--query_file` in the file's order, to be asked in the task's patterns.

    Texts stand in the columns that the arguments name; of a task of the table, in that task's own columns (RTE:
    `sentence1`, `sentence2`) or else in `text1` and `text2`. A row's `idx` is `query-<idx>`, or `query-<n>` with its place
    from 0 where the file has no idx: it is none of the task's own rows.

    Args:
        labels: whether labels are read, numbered as in the task's training rows: `label` is None for a row that has none,
            and for all where there is no such column; rows of a class that the task leaves out are left out. If not,
            every label is None, whatever the file holds.
        quiet: whether no note says which rows are left out.

    Raises:
        InputError: a column is missing or holds what it must not hold, or there is no row.
    """
    where = f"{FLAG} {file}"
    table = read_file(Path(file), where)
    training = task.train or EvalSet("train", Source(), ("text1", "text2"))  # the embedded world's rows come from no file
    queries = replace(
        training,
        name="queries",
        source=replace(training.source, file=file, flag=FLAG),
        text_columns=training.text_columns if data.train_file else _text_columns(table, training.text_columns, data, where),
        label_column=_label_column(table, data, where) if labels else None,
        label_optional=True,
    )
    rows, note = make_rows(table, queries, task, where)
    if note and not quiet:
        say_note(note)
    return [{**row, "idx": f"query-{row['idx']}"} for row in rows]


def leave_out(queries: Sequence[Row], demonstrations: Sequence[Row], flag: str) -> list[Row]:
    """The queries whose texts are not those of a demonstration: the answers to these would stand in the context.

    Args:
        flag: the flag that says what is asked or shown, and its value, for messages.

    Raises:
        InputError: there are none.
    """
    shown = {(row["text1"], row["text2"]) for row in demonstrations}
    left = [row for row in queries if (row["text1"], row["text2"]) not in shown]
    if not left:
        raise InputError(
            f"{flag}: each of the {len(queries)} queries is one of the demonstrations; show fewer, or give other queries ({FLAG})"
        )
    return left


def _text_columns(table: Table, trained: tuple[str, str | None], data: DataArguments, where: str) -> tuple[str, str | None]:
    """Columns of the texts of a task of the table."""
    pair = trained[1] is not None
    named = (data.text1_column, data.text2_column or ("text2" if pair else None))
    choices = [named] if _given(data, "text1_column", "text2_column") else [trained, named]
    for columns in choices:
        if all(column in table for column in columns if column):
            return columns
    wanted = " nor ".join(dict.fromkeys(" and ".join(filter(None, columns)) for columns in choices))
    raise InputError(
        f"{where}: there is no column {wanted}; the columns are {listed(table)}; "
        f"name {'two' if pair else 'one'} of these with --text1_column{' and --text2_column' if pair else ''}"
    )


def _label_column(table: Table, data: DataArguments, where: str) -> str:
    """The column of the labels, which a file of queries need not have unless the argument is meant for that file alone."""
    if data.train_file is None and _given(data, "label_column"):
        check_column(table, "label_column", data.label_column, where)
    return data.label_column


def _given(data: DataArguments, *arguments: str) -> bool:
    defaults = {field.name: field.default for field in fields(data)}
    return any(getattr(data, argument) != defaults[argument] for argument in arguments)
