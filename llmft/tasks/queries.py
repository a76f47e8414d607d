"""Queries from a user's file for distillation, which does not need their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError, listed
from llmft.runs.notes import say_note
from llmft.tasks.formats import Table, read_file
from llmft.tasks.questions import WRITTEN, names_of_written, turns_of
from llmft.tasks.rows import DOCUMENT, make_rows, renamed
from llmft.tasks.schema import EvalSet, Row, Source, Task
from llmft.tasks.texts import HISTORY, asks, name_documents
from llmft.tasks.turns import Names, by_turn
from llmft.tasks.user_files import check_column, given

if TYPE_CHECKING:
    from llmft.arguments.data import DataArguments


QUERIES, RETAINED = "--query_file", "--retain_file"
"""The flags for files of queries: those to learn from, and those that a student should answer as before."""


def query_source(file: str, flag: str) -> Source:
    """The source of a flag's queries, for `fingerprint_data`."""
    return Source(file=file, flag=flag)


def load_queries(
    file: str,
    data: DataArguments,
    task: Task,
    *,
    labels: bool = True,
    quiet: bool = False,
    documents: dict[str, str] | None = None,
    flag: str = QUERIES,
) -> list[Row]:
    """The rows of `--query_file`, or of another flag's file, in the file's order, for the task's patterns.

    Texts are in the columns that the arguments name; for a task of the table, in that task's own columns (RTE:
    `sentence1`, `sentence2`) or else in `text1` and `text2`. A row's `idx` is `query-<idx>`, or `query-<n>` with its position
    from 0 if the file has no idx, so that it differs from the task's own rows. Text answers and documents are likewise in the
    columns that the arguments name, or in the task's own, or else in `answer` and `document`; files written by a model
    ({document, query, answer, answer_ids}) can be read. A row without an answer is a query like any other.

    Args:
        labels: whether to read labels, numbered as in the task's training rows: `label` is None for a row without one,
            and for all rows if there is no such column; rows of a class that the task drops are dropped. If False,
            every label is None, whatever the file contains. Text answers are read in any case.
        quiet: whether to suppress notes, as about dropped rows.
        documents: the task's documents by id, to which those of the queries are added. None: the documents of queries are not
            read.

    Raises:
        InputError: a column is missing or has an invalid value, or there are no rows.
    """
    where = f"{flag} {file}"
    table = read_file(Path(file), where, own=True)
    sample = task.train or task.in_domain or _made_rows(task)
    queries = replace(sample, name="queries", source=replace(sample.source, file=file, flag=flag), answer_optional=True)
    if task.answer == "label":
        columns = queries.text_columns if data.train_file else _text_columns(table, queries.text_columns, data, where)
        queries = replace(queries, text_columns=columns, label_column=_label_column(table, data, where) if labels else None)
    else:
        document = data.document_column or queries.document_column or DOCUMENT
        names = Names(turns_of(data), data.text1_column, data.answer_column, document, data.text2_column)
        wrote = {DOCUMENT, WRITTEN, "answer"} <= set(table)  # a model, which does not know what columns have other files
        written = ((WRITTEN, data.text1_column),) if wrote else names_of_written(data)
        table, where = by_turn(renamed(table, written), names, where)
        evaluated = task.in_domain  # if these are the same rows, they have been checked
        asked = flag == QUERIES and evaluated is not None and evaluated.source.file != file
        about_documents = documents is not None and queries.document_column is not None
        queries = replace(
            queries,
            text_columns=_text_columns(table, queries.text_columns, data, where),
            answer_column=_word_column(table, data, "answer", queries.answer_column, where) or queries.answer_column,
            document_column=_word_column(table, data, "document", queries.document_column, where) if about_documents else None,
            turns_column=None,  # they have become rows
            asked_after=evaluated.asked_after if asked else (),
        )
    rows, notes = make_rows(table, queries, task, where, documents)
    if documents is not None and queries.document_column is not None:
        name_documents(rows, documents)
    for note in () if quiet else notes:
        say_note(note)
    return [{**row, "idx": f"query-{row['idx']}"} for row in rows]


def leave_out(queries: Sequence[Row], demonstrations: Sequence[Row], flag: str) -> list[Row]:
    """The queries that are not asked in a demonstration, or in a turn before it: their answers would be in the context.

    Args:
        flag: the flag of the queries or demonstrations, with its value, for messages.

    Raises:
        InputError: none are left.
    """
    shown = {asks(asked) for row in demonstrations for asked in (row, *_before(row))}
    left = [row for row in queries if asks(row) not in shown]
    if not left:
        raise InputError(
            f"{flag}: each of the {len(queries)} queries is one of the demonstrations; show fewer, or use others ({QUERIES})"
        )
    return left


def _before(row: Row) -> Iterator[Row]:
    """The earlier queries of a row's conversation."""
    history = row.get(HISTORY, ())
    for place, turn in enumerate(history):
        if turn.role == "user":
            yield {**row, "text1": turn.content, HISTORY: history[:place]}


def _made_rows(task: Task) -> EvalSet:
    """The columns of queries for an embedded world, whose own rows do not come from a file."""
    pair = any("{text2}" in named.pattern for named in task.patterns.values())
    words = {} if task.answer == "label" else {"answer_column": "answer", "document_column": "document"}
    return EvalSet("train", Source(), ("text1", "text2" if pair else None), **words)


def _text_columns(table: Table, trained: tuple[str, str | None], data: DataArguments, where: str) -> tuple[str, str | None]:
    """Columns of the texts for a task of the table."""
    pair = trained[1] is not None
    named = (data.text1_column, data.text2_column or ("text2" if pair else None))
    choices = [named] if given(data, "text1_column", "text2_column") else [trained, named]
    for columns in choices:
        if all(column in table for column in columns if column):
            return columns
    wanted = " nor ".join(dict.fromkeys(" and ".join(filter(None, columns)) for columns in choices))
    raise InputError(
        f"{where}: there is no column {wanted}; the columns are {listed(table)}; "
        f"name {'two' if pair else 'one'} of these with --text1_column{' and --text2_column' if pair else ''}"
    )


def _word_column(table: Table, data: DataArguments, noun: str, trained: str | None, where: str) -> str | None:
    """The column of answers or documents: the one that is named, the task's own, or the one with the default name; None for none.

    A file of queries need not have answers, unless the argument is meant only for that file."""
    argument = f"{noun}_column"
    named = getattr(data, argument) if given(data, argument) else None
    column = next((name for name in (named, trained, noun) if name in table), None)
    if column is None and named is not None and (noun == "document" or named != trained):
        check_column(table, argument, named, where)
    return column


def _label_column(table: Table, data: DataArguments, where: str) -> str:
    """The column of the labels, which a file of queries need not have, unless the argument is meant only for that file."""
    if data.train_file is None and given(data, "label_column"):
        check_column(table, "label_column", data.label_column, where)
    return data.label_column
