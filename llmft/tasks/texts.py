"""Cells that contain text: texts, accepted answers, and the documents that rows are about."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llmft.errors import InputError, listed, quote
from llmft.prompts.turns import SURROGATE
from llmft.tasks.schema import Row

UNTITLED = "document"
"""Start of the ids of documents without a title."""
ID = re.compile(r"\S+-[0-9a-f]{8,64}")
"""An id made by `name_documents`; no document is such a text."""


CATEGORY = "category"
"""The column, in files with text answers, that scores are grouped by."""
WRONG_ANSWER = "wrong_answer"
"""The column, in these files, of answers that are known to be wrong, such as a value that has changed since."""
ANSWER_IDS = "answer_ids"
"""The column, in these files, of an answer's tokens."""
THOUGHT, THOUGHT_IDS = "thought", "thought_ids"
"""The columns of what a model wrote before its answer, and of its tokens."""
HISTORY, CONVERSATION, TURN = "history", "conversation", "turn"
"""For a row of a conversation: the turns before its query, the conversation's idx, and the number of this answer, from 1."""
LIST = re.compile(r"""\[(["']).*\1\]""", re.DOTALL)
"""A list of texts as Python writes it."""
CHUNK = re.compile(r"(.+)#[0-9]+-[0-9]+-[0-9a-f]{8}", re.DOTALL)
"""An id of a chunk."""


class Document(NamedTuple):
    """A document in a row, before it has an id."""

    title: str
    text: str


def check_text(value: Any, column: str, where: str, row: int) -> str:
    """The value, which must be a text that a tokenizer can read.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, str):
        raise InputError(f"{where}: column {column} holds a value that is not text, {quote(value)} in row {row}; fix the file")
    if SURROGATE.search(value):
        raise InputError(f"{where}: column {column} holds half a surrogate pair in row {row}; fix the file")
    return value


def read_answers(cells: Iterable[Any], column: str, where: str, first: int) -> list[tuple[str, ...]]:
    """The accepted answers of each row, without duplicates and in the order written; () for none.

    A cell is a text, a list of texts, or an object with such a list as its `text` (SQuAD's); empty texts do not count.

    Args:
        first: the number of the first row in messages.

    Raises:
        InputError: a cell is none of these.
    """
    answers = []
    for row, cell in enumerate(cells, first):
        texts = cell["text"] if isinstance(cell, dict) and "text" in cell else cell
        texts = [] if missing(texts) else texts if isinstance(texts, list) else [texts]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"{where}: the answer of row {row} is {quote(cell)}; write a text, or a list of texts, in column {column}"
            )
        answers.append(tuple(dict.fromkeys(check_text(text, column, where, row) for text in texts if text.strip())))
    return answers


def list_as_text(answers: Iterable[tuple[str, ...]]) -> str | None:
    """The first answer, if all are lists written as text (`['Paris', 'paris']`), as pandas writes lists to a csv; else None.

    Args:
        answers: the accepted answers of each row, as from `read_answers`.
    """
    texts = [text for accepted in answers for text in accepted]
    return texts[0] if texts and all(map(_is_list, texts)) else None


def _is_list(text: str) -> bool:
    try:
        return LIST.fullmatch(text) is not None and isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError):  # it only looks like one
        return False


def read_categories(cells: Iterable[Any], column: str, where: str, first: int) -> list[str | None]:
    """Each row's category as text, None if it has none.

    Raises:
        InputError: a cell is neither a text nor a number.
    """
    read = []
    for row, cell in enumerate(cells, first):
        if not missing(cell) and not isinstance(cell, str | int | float):
            raise InputError(f"{where}: the {column} of row {row} is {quote(cell)}; write a text or a number, or drop the column")
        whole = isinstance(cell, float) and cell.is_integer()  # as pandas writes whole numbers beside a missing value
        read.append(None if missing(cell) else str(int(cell) if whole else cell))
    return read


def read_token_ids(cells: Iterable[Any], column: str, where: str, first: int) -> list[list[int] | None]:
    """The tokens of each row's answer, or of the thought before it, None if they are not given. Only a thought may have none.

    Raises:
        InputError: a cell is not a list of whole numbers from 0.
    """
    read, what = [], column.removesuffix("_ids")
    for row, cell in enumerate(cells, first):
        ids = None if missing(cell) else cell
        whole = isinstance(ids, list) and all(type(number) is int and number >= 0 for number in ids)
        if ids is not None and not (whole and (ids or column == THOUGHT_IDS)):
            raise InputError(
                f"{where}: column {column} of row {row} is {quote(cell)}; write the tokens of the {what}, a list of whole "
                "numbers, or drop the column"
            )
        read.append(ids)
    return read


def read_documents(
    table: Mapping[str, Sequence[Any]],
    column: str,
    title_column: str | None,
    documents: Mapping[str, str],
    *,
    listed_only: bool,
    where: str,
    first: int,
) -> list[str | Document]:
    """The document of each row: the id of one of `documents`, or the document itself, to which `name_documents` will give an id.

    Args:
        column: column of texts, or of ids of `documents`.
        title_column: column of the texts' titles, if there is one.
        listed_only: whether all must be ids.

    Raises:
        InputError: a document is empty or not a text, or there is none with that id.
    """
    read: list[str | Document] = []
    titles = table.get(title_column, [UNTITLED] * len(table[column]))
    for row, (cell, title) in enumerate(zip(table[column], titles, strict=True), first):
        text = check_text(cell, column, where, row)
        if not text.strip():
            raise InputError(f"{where}: the document of row {row} is empty; give each row a document with text")
        if text in documents:
            read.append(text)
            continue
        if listed_only or ID.fullmatch(text):
            remedy = f"name one of {listed(documents)}" if documents else "write the document itself"
            raise InputError(f"{where}: row {row}: there is no document {quote(text)}; {remedy}")
        read.append(Document("_".join(check_text(title, title_column, where, row).split()) or UNTITLED, text))
    return read


def name_documents(rows: Iterable[Row], documents: dict[str, str]) -> None:
    """Replace each row's document by its id: the existing one for a known text, else one made from its title and content,
    independent of other documents unless another has this id: then more digits follow. New documents are added to `documents`."""
    ids = {text: name for name, text in documents.items()}
    for row in rows:
        document = row["document"]
        if isinstance(document, Document):
            if document.text not in ids:
                names = (f"{document.title}-{content_hash(document.text, digits)}" for digits in range(8, 65))
                ids[document.text] = next(name for name in names if name not in documents)
            name = row["document"] = ids[document.text]
            documents[name] = document.text


def content_hash(text: str, digits: int = 8) -> str:
    """Hex digits that distinguish texts."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def document_of(name: str) -> str:
    """The document of the chunk with this id (`llmft.tasks.chunks`); any other id is returned unchanged."""
    chunk = CHUNK.fullmatch(name)
    return chunk[1] if chunk else name


def without_thought(row: Row) -> Row:
    """The row as it is asked where nobody reads what a model wrote before its answer."""
    return {name: value for name, value in row.items() if name not in (THOUGHT, THOUGHT_IDS)}


def with_written(row: Row, ids: list[int]) -> Row:
    """The row with the tokens that a model has written as its answer, and without a thought of another answer."""
    return {**without_thought(row), ANSWER_IDS: ids}


def answered(row: Row) -> bool:
    """Whether a row has a label or a text answer."""
    return row["label"] is not None or bool(row.get("answer"))


def query_text(row: Row) -> str:
    """A row's texts joined, for display."""
    return "\n".join(filter(None, (row["text1"], row["text2"])))


def conversation_text(row: Row) -> str:
    """The turns before a query and the row's texts, for display."""
    return "\n".join([*(f"{turn.role}: {turn.content}" for turn in row.get(HISTORY, ())), query_text(row)])


def asks(row: Row) -> tuple[Any, ...]:
    """The identity of a row's query, regardless of its idx: its texts, the turns before them, and the document."""
    document = row.get("document")
    document = document_of(document) if isinstance(document, str) else document
    return row["text1"], row["text2"], row.get(HISTORY, ()), document


def first_repeat(values: Iterable[Hashable]) -> tuple[int, int] | None:
    """The places, from 0, of the first value that occurs again: the earlier and the later one. None if all differ."""
    places: dict[Hashable, int] = {}
    for place, value in enumerate(values):
        if value in places:
            return places[value], place
        places[value] = place
    return None


def missing(cell: Any) -> bool:
    """Whether a cell of a file holds no value: None, NaN, or nothing between its delimiters."""
    return cell is None or cell == "" or cell != cell
