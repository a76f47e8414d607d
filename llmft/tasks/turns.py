"""Conversations in files of text answers: each turn of the assistant is an answer, and what was said before it is read with
its query, by teacher and student alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from llmft.errors import InputError, quote
from llmft.prompts.render import Turn
from llmft.prompts.turns import read_turn
from llmft.tasks.formats import Table
from llmft.tasks.texts import ANSWER_IDS, CONVERSATION, HISTORY, THOUGHT_IDS, TURN, WRONG_ANSWER, first_repeat, missing

TURNS = "turns"
"""The column of conversations, unless another is named."""
ROLES = ("user", "assistant")
OF_ONE_ANSWER = ("text2", ANSWER_IDS, THOUGHT_IDS, "chunk", WRONG_ANSWER, HISTORY)
"""Columns that say something about one answer, and so do not go with several in a row."""
SHAPE = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
"""What a conversation looks like."""


class Names(NamedTuple):
    """What the columns of a file of questions are called."""

    turns: str
    text: str
    answer: str
    document: str | None
    """Also of a user's turn: what its teacher, and that of turns behind it, reads."""
    second: str | None = None
    """Of the second text."""


def by_turn(table: Table, names: Names, where: str) -> tuple[Table, str]:
    """The table with a row for each turn of the assistant in place of each conversation: the user's turn in front of it is the
    text, its own is the answer, and all turns before these are the history. A user's turn that ends a conversation is a row
    without an answer. Of a table of single questions, the column of histories is read, and columns with the names
    of those that conversations get are left out.

    Args:
        where: flag and file, for errors.

    Returns:
        Also `where` for messages about the new rows, which are numbered otherwise than the file's.

    Raises:
        InputError: a conversation is none, or stands beside a column of single questions.
    """
    if names.turns not in table:
        table = {name: cells for name, cells in table.items() if name in names or name not in (CONVERSATION, TURN)}
        histories = [_turns(cell, HISTORY, where, row) for row, cell in _cells(table, HISTORY)]
        return (table | {HISTORY: histories} if HISTORY in table else table), where
    single = next((name for name in (names.text, names.answer, *OF_ONE_ANSWER) if name in table), None)
    if single is not None:
        raise InputError(
            f"{where}: has columns {names.turns} and {single}; a row is a conversation or a single question: leave one of the "
            "columns out"
        )
    others = [name for name in table if name not in (names.turns, "idx")]
    ids = [*map(str, table.get("idx", range(len(table[names.turns]))))]
    if repeat := first_repeat(ids):
        first, again = repeat
        raise InputError(
            f"{where}: column idx has {ids[first]} in rows {first + 1} and {again + 1}; make it unique, or drop the column"
        )
    rows = []
    for (number, cell), idx in zip(_cells(table, names.turns), ids, strict=True):
        shared = {name: table[name][number - 1] for name in others}
        rows += [{**shared, CONVERSATION: idx, **asked} for asked in _asked(cell, names, shared, where, number)]
    about_documents = any(names.document in row for row in rows)
    columns = [*others, names.text, names.answer, HISTORY, TURN, CONVERSATION, *([names.document] if about_documents else [])]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(columns)}, f"{where} (a row for each query)"


def _cells(table: Table, column: str) -> Iterator[tuple[int, Any]]:
    return enumerate(table.get(column, ()), 1)


def _asked(cell: Any, names: Names, shared: dict[str, Any], where: str, row: int) -> Iterator[dict[str, Any]]:
    """The columns of each query of a conversation."""
    turns, column = _turns(cell, names.turns, where, row), f"{where}: column {names.turns} of row {row}"
    if not turns:
        raise InputError(f"{column} has no turn; write {SHAPE}")
    about = {names.document: shared[names.document]} if shared.get(names.document) is not None else {}
    number = 0
    for place, turn in enumerate(turns):
        document = cell[place].get(names.document)
        if turn.role == "user":
            about = about if document is None else {names.document: document}
            if place + 1 < len(turns) and turns[place + 1].role == "user":
                continue
            number += 1
            answer = turns[place + 1].content if place + 1 < len(turns) else None
            yield {names.text: turn.content, names.answer: answer, HISTORY: turns[:place], TURN: number, **about}
        elif document is not None:
            raise InputError(
                f"{column}: turn {place + 1} is the assistant's and has a {names.document}; give that to the user's before it"
            )
        elif place == 0 or turns[place - 1].role != "user":
            raise InputError(f"{column}: turn {place + 1} is the assistant's, and no user's turn stands right in front; add one")


def _turns(cell: Any, column: str, where: str, row: int) -> tuple[Turn, ...]:
    """The turns of a cell of a column.

    Raises:
        InputError: it is not a list of turns, or one has another role or no text.
    """
    turns: Any = [] if missing(cell) else cell
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{where}: column {column} of row {row} is {quote(cell)}; write {SHAPE}")
    places = [f"{where}: column {column} of row {row}: turn {number + 1}" for number in range(len(turns))]
    return tuple(read_turn(turn, ROLES, place) for turn, place in zip(turns, places, strict=True))
