"""The tasks `questions` and `code`: the user's own files with text answers, with or without documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.prompts.render import read_context
from llmft.runs.notes import say_note
from llmft.tasks.formats import Table, read_file
from llmft.tasks.rows import renamed
from llmft.tasks.rules import read_rules
from llmft.tasks.schema import EvalSet, NamedPattern, Source, Task
from llmft.tasks.table import TASKS
from llmft.tasks.texts import read_answers
from llmft.tasks.turns import TURNS, Names, by_turn
from llmft.tasks.user_files import check_column, check_different, given, own_sets, text_columns

if TYPE_CHECKING:
    from llmft.arguments.context import ContextFile
    from llmft.arguments.data import DataArguments

NAMES = ("questions", "code")
WRITTEN = "query"
"""The column of the question in files written by a model ({document, query, answer, answer_ids})."""


def own_questions(
    data: DataArguments, *, answers_needed: bool = True, query_file: str | None = None, context_files: Sequence[ContextFile] = ()
) -> Task:
    """The task `questions` or `code` with the sets of the user's files. There may be no training rows.

    Args:
        answers_needed: whether training rows without an answer are dropped.
        query_file: --query_file; without --validation_file, its rows with answers are the evaluation rows.
        context_files: files that `--document_column` refers to; () if that column holds the documents themselves.

    Raises:
        InputError: a file or column is missing, there is nothing to evaluate on, or the arguments contradict each other.
    """
    task = TASKS[data.task_name]
    flag, file = ("--validation_file", data.validation_file) if data.validation_file else ("--query_file", query_file)
    if file is None:
        raise InputError(f"--task {task.name}: there is nothing to evaluate on; add --validation_file")
    rules = () if data.rules is None else read_rules(data.rules)
    if rules and data.validation_file is None:
        raise InputError(
            f"--rules {data.rules}: there is nothing to evaluate on; add --validation_file, whose rows need no answers"
        )
    where = decides = f"{flag} {file}"
    table = renamed(read_file(Path(file), where, own=True), names_of_written(data))
    if data.turns_column is not None:
        check_column(table, "turns_column", data.turns_column, where)
    conversations = turns_of(data) in table
    names = Names(turns_of(data), data.text1_column, data.answer_column, data.document_column, data.text2_column)
    table, where = by_turn(table, names, where)
    columns = text_columns(data, table, where)
    check_different(columns, "answer_column", data.answer_column)
    if data.document_column is not None:
        check_column(table, "document_column", data.document_column, where)
        check_different(columns, "document_column", data.document_column)
    if not rules:
        _check_answers(data, table, flag, where, conversations=conversations)

    def rows_of(argument: str, name: str, file: str) -> EvalSet:
        return EvalSet(
            name,
            Source(file=file, flag=f"--{argument}", own=True, rename=names_of_written(data)),
            columns,
            label_column=None,
            answer_column=data.answer_column,
            answer_optional=not answers_needed if argument == "train_file" else bool(rules),
            document_column=data.document_column,
            turns_column=turns_of(data),
            columns_of=decides,
        )

    sets = own_sets(data, task.name, rows_of)
    if data.validation_file is None:
        sets["in_domain"] = rows_of("query_file", task.name, file)
        say_note(f"--validation_file: not given; evaluating on the rows of --query_file {file} that have answers")
    by_name = bool(context_files) and data.document_column is not None
    return replace(
        task,
        patterns=_patterns(task, chat=data.chat, conversations=conversations, pair=columns[1] is not None),
        documents=(lambda variant, data_seed: documents_of(context_files)) if by_name else None,
        context=task.context if data.document_column is None else "document",
        headline="rules" if rules else task.headline,
        metrics=() if rules else task.metrics,  # which compare with correct answers
        rules=rules,
        **sets,
    )


def turns_of(data: DataArguments) -> str:
    """The column of conversations, in files with such a column."""
    return TURNS if data.turns_column is None else data.turns_column


def _patterns(task: Task, *, chat: bool, conversations: bool, pair: bool) -> dict[str, NamedPattern]:
    """The patterns: the task's question, or for conversations the user's turn, in the same form as the turns before it."""
    if conversations:
        return {"minimal": NamedPattern("{text1}", "", ()) if chat else NamedPattern("user: {text1}", "\nassistant:", ())}
    if pair:
        return {name: named._replace(pattern=named.pattern + "\n{text2}") for name, named in task.patterns.items()}
    return task.patterns


def names_of_written(data: DataArguments) -> tuple[tuple[str, str], ...]:
    """Names for `renamed`: the question's column of a file written by a model is `text1`, unless a column is named."""
    return () if given(data, "text1_column") else ((WRITTEN, "text1"),)


def documents_of(files: Sequence[ContextFile]) -> dict[str, str]:
    """The texts of files by the names that rows use for them.

    Raises:
        InputError: a file cannot be read or is empty, or two have the same name.
    """
    documents: dict[str, str] = {}
    for file in files:
        if file.name in documents:
            listed_files = ",".join(one.path for one in files)
            raise InputError(f"--context_file {listed_files}: two files are named {file.name}, so rows cannot tell them apart")
        documents[file.name] = read_context(file)
    return documents


def _check_answers(data: DataArguments, table: Table, flag: str, where: str, *, conversations: bool) -> None:
    """Check that there are evaluation rows with answers."""
    check_column(table, "answer_column", data.answer_column, where)
    if not table[data.answer_column]:
        raise InputError(f"{where}: the file has no rows; name another file")
    if not any(read_answers(table[data.answer_column], data.answer_column, where, 1)):
        remedy = "add some" if flag == "--validation_file" else "add some, add --validation_file"
        argument, column = ("turns", turns_of(data)) if conversations else ("answer", data.answer_column)
        raise InputError(
            f"{where}: no row has an answer in column {column}, so there is nothing to evaluate on; {remedy}, or "
            f"name the column with --{argument}_column"
        )
