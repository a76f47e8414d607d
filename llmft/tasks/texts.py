"""What cells hold in words: texts, answers that are accepted, and the documents that rows are about."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llmft.errors import InputError, listed, quote
from llmft.prompts.turns import SURROGATE
from llmft.tasks.schema import Row

UNTITLED = "document"
"""What ids of documents without a title begin with."""
ID = re.compile(r"\S+-[0-9a-f]{8}")
"""An id as `name_documents` makes it; no document is such a text."""


CATEGORY = "category"
"""The column, in files of answers in words, by which their scores are told apart."""
WRONG_ANSWER = "wrong_answer"
"""The column, there, of answers that are known to be wrong, such as a value that has changed since."""
HISTORY, CONVERSATION, TURN = "history", "conversation", "turn"
"""Of a row of a conversation: the turns before its query, the conversation's idx, and which of its answers this is, from 1."""
CHUNK = re.compile(r"(.+)#[0-9]+-[0-9]+-[0-9a-f]{8}", re.DOTALL)
"""An id of a chunk."""


class Document(NamedTuple):
    """A document as a row holds it, before it has an id."""

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
    """The accepted answers of each row, each once and in the order in which they are written; () for none.

    A cell is a text, a list of texts, or an object with such a list as its `text` (SQuAD's); an empty text is no answer.

    Args:
        first: the number of the first row in messages.

    Raises:
        InputError: a cell is nothing of these.
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


def read_categories(cells: Iterable[Any], column: str, where: str, first: int) -> list[str | None]:
    """Each row's category as text, None where there is none.

    Raises:
        InputError: a cell is no text and no number.
    """
    read = []
    for row, cell in enumerate(cells, first):
        if not missing(cell) and not isinstance(cell, str | int | float):
            raise InputError(f"{where}: the {column} of row {row} is {quote(cell)}; write a text or a number, or drop the column")
        read.append(None if missing(cell) else str(cell))
    return read


def read_answer_ids(cells: Iterable[Any], column: str, where: str, first: int) -> list[list[int] | None]:
    """The tokens of each row's answer, None where there are none.

    Raises:
        InputError: a cell is no list of whole numbers from 0.
    """
    read = []
    for row, cell in enumerate(cells, first):
        ids = None if missing(cell) else cell
        if ids is not None and not (isinstance(ids, list) and ids and all(type(number) is int and number >= 0 for number in ids)):
            raise InputError(
                f"{where}: column {column} of row {row} is {quote(cell)}; write the tokens of the answer, a list of whole "
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
    """The document of each row: the id of one of `documents`, or it itself, which `name_documents` gives an id.

    Args:
        column: of texts, or ids of `documents`.
        title_column: of the texts' titles, where there is one.
        listed_only: whether all must be ids.

    Raises:
        InputError: a document is empty or no text, or there is none of that id.
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
    """Give each row the id of its document in place of the document: the same for the same text, else one of its title and its
    content, whatever other documents there are. New documents are added to `documents`."""
    ids = {text: name for name, text in documents.items()}
    for row in rows:
        document = row["document"]
        if isinstance(document, Document):
            name = row["document"] = ids.setdefault(document.text, f"{document.title}-{content_hash(document.text)}")
            documents[name] = document.text


def content_hash(text: str) -> str:
    """Eight hex digits that tell a text from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def document_of(name: str) -> str:
    """The document that a chunk of this id is of (`llmft.tasks.chunks`); of another id, that itself."""
    chunk = CHUNK.fullmatch(name)
    return chunk[1] if chunk else name


def answered(row: Row) -> bool:
    """Whether a row has a label or an answer in words."""
    return row["label"] is not None or bool(row.get("answer"))


def query_text(row: Row) -> str:
    """A row's texts as one, for people."""
    return "\n".join(filter(None, (row["text1"], row["text2"])))


def conversation_text(row: Row) -> str:
    """What was said before a query and its texts, for people."""
    return "\n".join([*(f"{turn.role}: {turn.content}" for turn in row.get(HISTORY, ())), query_text(row)])


def asks(row: Row) -> tuple[Any, ...]:
    """What a row asks, whatever its idx: its texts, what was said before them, and the document that they are about."""
    document = row.get("document")
    document = document_of(document) if isinstance(document, str) else document
    return row["text1"], row["text2"], row.get(HISTORY, ()), document


def missing(cell: Any) -> bool:
    """Whether a cell of a file holds no value: None, NaN, or nothing between its delimiters."""
    return cell is None or cell == "" or cell != cell
