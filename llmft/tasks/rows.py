"""Columns as they are written -> rows of `text1, text2, label, idx` (for text: `answer`, `document`), each value checked."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmft.errors import InputError, listed, quote
from llmft.tasks.formats import Table
from llmft.tasks.rules import COLUMN as RULES
from llmft.tasks.rules import Rule, put_rules
from llmft.tasks.schema import EvalSet, Row, Source, Task
from llmft.tasks.texts import (
    ANSWER_IDS,
    CATEGORY,
    CONVERSATION,
    HISTORY,
    THOUGHT,
    THOUGHT_IDS,
    TURN,
    WRONG_ANSWER,
    check_text,
    first_repeat,
    list_as_text,
    missing,
    read_answers,
    read_categories,
    read_documents,
    read_token_ids,
)
from llmft.tasks.turns import Names, by_turn

WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,4000})(\.0+)?")
"""The digits of one; pandas writes those beside a missing value as 1.0. Python refuses to read more digits."""
BYTES_LITERAL = re.compile(r"""b(["']).*\1""", re.DOTALL)
MISSING = ("", "nan", "NaN", "<NA>")
"""How text says that there is no value: an empty cell, and what pandas makes of a missing value that becomes text."""
UNLABELLED = -1
"""The hub's label of a row that has none."""
BOOLEANS = ("False", "True")
"""The names of labels that are booleans."""


SECOND = "text2"
"""The column of the second text in files of the user's, unless another is named."""
DOCUMENT = "document"
"""The column, in files that a model wrote, of the document that a row is about."""
CHUNK = "chunk"
"""The column, in such files, that says which chunk of its document a row is about, by number."""


def _unchanged(cells: Sequence[Any], column: str, where: str, first: int) -> Sequence[Any]:
    """Cells that are checked elsewhere: by `tasks.turns`, by `Texts.check` if there are tokens, and, once the documents are cut,
    by `pipelines.chunking`."""
    return cells


OPTIONAL = {
    HISTORY: _unchanged,
    TURN: _unchanged,
    CONVERSATION: _unchanged,
    CHUNK: _unchanged,
    ANSWER_IDS: read_token_ids,
    THOUGHT: _unchanged,
    THOUGHT_IDS: read_token_ids,
    CATEGORY: read_categories,
    WRONG_ANSWER: read_answers,
}
"""Columns that files of text answers may have -> what reads their cells. A row gets no key for a missing value, but for
`wrong_answer`, which is then ()."""


def make_rows(
    table: Table, eval_set: EvalSet, task: Task, where: str, documents: Mapping[str, str] | None = None
) -> tuple[list[Row], list[str]]:
    """The rows of a set, in the order of the table; those that the set leaves out are not in it.

    Unlabelled rows (-1), and rows without a text answer, are left out too, unless the set's answers are optional.

    Args:
        where: flag and file, for the error.
        documents: by id, those that rows may name. Where a row holds its document itself, `document` is a `texts.Document`.

    Returns:
        The rows, and notes: one that counts what the file has beside them, unless that is what the set is defined by, and
        others on documents and answers that may not be meant as they are.

    Raises:
        InputError: a column is missing or holds what it must not hold, a label is out of range, a model wrote a row about a
            document that it is not asked after, or no row is left.
    """
    table = renamed(table, eval_set.source.rename)
    about = _about_other(table, eval_set, where)
    if eval_set.turns_column is not None:
        text1, text2 = eval_set.text_columns
        names = Names(eval_set.turns_column, text1, eval_set.answer_column, eval_set.document_column, text2)
        table, where = by_turn(table, names, where)
    _check_columns(table, eval_set, where)
    table, first = _part(table, eval_set.source, where)
    rows = _bare_rows(table, eval_set, where, first)
    if eval_set.answer_column is None:
        kept, reasons = _with_labels(rows, table, eval_set, task, where, first)
    else:
        _put_documents(rows, table, eval_set, task, where, first, documents or {})
        kept, reasons = _with_answers(rows, table, eval_set, task.rules, where, first)
    notes = [about, left_out(where, len(rows), reasons), _odd_answers(rows, where)]
    kept = [row for row in kept if all(row[column] == value for column, value in eval_set.where)]
    if not kept:
        kind = "row" if eval_set.answer_optional else "labelled row" if eval_set.answer_column is None else "row with an answer"
        raise InputError(f"{where}: there is no {kind} of {eval_set.name} in it; give another file")
    return kept, [note for note in notes if note]


def _about_other(table: Table, eval_set: EvalSet, where: str) -> str:
    """The line that says that rows asked after files may be about another document; "" if none is.

    Raises:
        InputError: one is, and the file has tokens of a model's answers, so the column is not the user's own.
    """
    files = eval_set.asked_after
    if not files or eval_set.document_column is not None or DOCUMENT in (*eval_set.text_columns, eval_set.answer_column):
        return ""
    for row, document in enumerate(table.get(DOCUMENT, ()), 1):
        if not (missing(document) or any(file.endswith(f"/{document}") for file in files)):
            names = listed(Path(file).name for file in files)
            about = f"{where}: row {row} is about {quote(document)}, but --context file is {names}"
            if ANSWER_IDS not in table:
                return about
            raise InputError(
                f"{about}; use --context document and --document_column {DOCUMENT}, leave such rows out, or drop the column "
                f"{DOCUMENT}"
            )
    return ""


def _odd_answers(rows: Sequence[Row], where: str) -> str:
    """The line that says that all text answers look like lists; "" if they do not."""
    shown = list_as_text(row.get("answer") or () for row in rows)
    if shown is None:
        return ""
    remedy = "write lists of accepted answers to jsonl or parquet"
    return f"{where}: every answer is a list written as text, such as {quote(shown)}, and is taken as one text; {remedy}"


def _with_labels(
    rows: list[Row], table: Table, eval_set: EvalSet, task: Task, where: str, first: int
) -> tuple[list[Row], dict[str, int]]:
    """The rows that have one of the set's labels, or need none, and reasons for leaving out others -> how many."""
    labels = _labels(table, eval_set, task, where, first)
    label_map = eval_set.label_map or tuple(range(len(task.label_names)))
    odd = next((row for row, label in enumerate(labels) if not UNLABELLED <= label < len(label_map)), None)
    if odd is not None:
        raise InputError(
            f"{where}: row {odd + first}: label {quote(labels[odd])} is out of range; {task.name} has 0 to {len(label_map) - 1}"
        )
    meanings = {UNLABELLED: None, **dict(enumerate(label_map))}
    for row, label in zip(rows, labels, strict=True):
        row["label"] = meanings[label]
    kept = [
        row
        for row, label in zip(rows, labels, strict=True)
        if (eval_set.answer_optional if label == UNLABELLED else row["label"] is not None)
        and eval_set.label in (None, row["label"])
    ]
    return kept, _reasons(labels, eval_set, label_map)


def _with_answers(
    rows: list[Row], table: Table, eval_set: EvalSet, rules: Sequence[Rule], where: str, first: int
) -> tuple[list[Row], dict[str, int]]:
    """The rows that have a text answer, or need none, and reasons for leaving out others -> how many."""
    column = eval_set.answer_column
    for row, answers in zip(rows, read_answers(table.get(column, [None] * len(rows)), column, where, first), strict=True):
        row["answer"] = answers
    for column, read in OPTIONAL.items():
        if column in table:
            for row, value in zip(rows, read(table[column], column, where, first), strict=True):
                row.update({} if missing(value) else {column: value})
    if rules:
        put_rules(rows, table.get(RULES, [None] * len(rows)), rules, where, first)
    kept = [row for row in rows if row["answer"] or eval_set.answer_optional]
    return kept, {"without an answer": len(rows) - len(kept)}


def _put_documents(
    rows: list[Row], table: Table, eval_set: EvalSet, task: Task, where: str, first: int, documents: Mapping[str, str]
) -> None:
    """Give each row its document, None where the set has none."""
    cells: Sequence[Any] = [None] * len(rows)
    if eval_set.document_column is not None:
        columns, listed_only = (eval_set.document_column, eval_set.title_column), task.documents is not None
        cells = read_documents(table, *columns, documents, listed_only=listed_only, where=where, first=first)
    for row, document in zip(rows, cells, strict=True):
        row["document"] = document


def _check_columns(table: Table, eval_set: EvalSet, where: str) -> None:
    """Check that the columns that the set uses are all there, and that it does not leave a second text out."""
    answers = eval_set.answer_column or eval_set.label_column
    needed = (*eval_set.text_columns, None if eval_set.answer_optional else answers, eval_set.document_column)
    missing = [c for c in (*needed, *dict(eval_set.where)) if c and c not in table]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}; the columns are {listed(table)}")
    if eval_set.columns_of is not None and eval_set.text_columns[1] is None and SECOND in table:
        raise InputError(f"{where}: has a column {SECOND}, which {eval_set.columns_of} lacks; add it there, or rename it")


def renamed(table: Table, names: Sequence[tuple[str, str]]) -> Table:
    """The table with columns under other names (theirs, the other); one whose other name is taken keeps its own."""
    others = dict(names)
    return {others[name] if name in others and others[name] not in table else name: table[name] for name in table}


def _bare_rows(table: Table, eval_set: EvalSet, where: str, first: int) -> list[Row]:
    """Every row of the table, its label or answer still to come."""
    text1, text2 = eval_set.text_columns
    texts = {c: _texts(table[c], c, eval_set.source.bytes_literals, where, first) for c in (text1, text2) if c}
    count = len(texts[text1])
    cells = {
        "text1": texts[text1],
        "text2": texts[text2] if text2 else [None] * count,
        "label": [None] * count,
        "idx": _idx(table["idx"], where, first) if "idx" in table else range(count),
        **{column: table[column] for column, _ in eval_set.where},
    }
    return [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]


def left_out(where: str, total: int, reasons: Mapping[str, int]) -> str:
    """The line that says how many of the rows of a file are left out and why ("without a label" -> how many); "" if none is."""
    counts = {reason: count for reason, count in reasons.items() if count}
    why = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    return f"{where}: {sum(counts.values())} of {total} rows left out: {why}" if counts else ""


def _reasons(labels: Sequence[int], eval_set: EvalSet, label_map: Sequence[int | None]) -> dict[str, int]:
    unlabelled = 0 if eval_set.answer_optional else labels.count(UNLABELLED)
    classes = {label: labels.count(label) for label, to in enumerate(label_map) if to is None}
    return {
        "without a label": unlabelled,
        **{f"of class {label}, which is none of the task's": n for label, n in classes.items()},
    }


def label_of(cell: Any, words: Sequence[str] = ()) -> int | str | None:
    """The label that a cell means: one of `words`, else a whole number, else a text; None where it holds none.

    Raises:
        ValueError: it is nothing of these.
    """
    if cell is None or cell != cell:
        return None
    if str(cell) in words:
        return str(cell)
    if isinstance(cell, bool):
        return next((word for word in words if word.lower() == str(cell).lower()), int(cell))
    if isinstance(cell, str):
        number = WHOLE_NUMBER.fullmatch(cell)
        if number is None:
            return None if cell in MISSING else cell
        label = int(number[1])
    elif isinstance(cell, int | float | Decimal) and cell % 1 == 0:
        label = int(cell)
    else:
        raise ValueError(f"{quote(cell)} is not a whole number")
    return str(label) if str(label) in words else label


def whole_number(cell: Any) -> int:
    """The whole number that a cell means.

    Raises:
        ValueError: it means none.
    """
    number = label_of(cell.strip() if isinstance(cell, str) else cell)
    if not isinstance(number, int):
        raise ValueError(f"{quote(cell)} is not a whole number")
    return number


def _labels(table: Table, eval_set: EvalSet, task: Task, where: str, first: int) -> list[int]:
    """Every row's label as the source numbers it, -1 where it has none."""
    source, optional = eval_set.source, eval_set.answer_optional
    if optional and eval_set.label_column not in table:
        return [UNLABELLED] * len(table[eval_set.text_columns[0]])
    cells = table[eval_set.label_column]
    labels = read_labels(cells, source.label_words, where, optional=optional, first=first)
    if source.numbers and kind_of_labels(labels, where, first) == "number":
        return [labels.get(row, UNLABELLED) for row in range(len(cells))]
    words = source.label_words
    if words:
        numbers = {UNLABELLED: UNLABELLED, **{word: number for number, word in enumerate(words)}}
        for row, label in labels.items():
            if label not in numbers:
                raise InputError(f"{where}: row {row + first}: label {quote(label)} is {_none_of(label, words)}")
        return [numbers[labels[row]] if row in labels else UNLABELLED for row in range(len(cells))]
    row, label = next((row, label) for row, label in labels.items() if label != UNLABELLED)
    meant = listed(name if name == str(i) else f"{i} {name}" for i, name in enumerate(task.label_names))
    raise InputError(
        f"{where}: row {row + first}: label {quote(label)} is text where a number is expected ({meant}); write numbers "
        "(text labels go with data of your own: --train_file, --label_names)"
    )


def _none_of(label: int | str, words: Sequence[str]) -> str:
    alike = next((word for word in words if plain_word(word) == plain_word(str(label))), None)
    hint = f" ({quote(alike)} differs in case, spaces or Unicode form alone)" if alike else ""
    return f"none of {listed(words)}{hint}; fix it, or list all with --label_names"


def plain_word(word: str) -> str:
    """A label's name without what is easily written in two ways."""
    return " ".join(unicodedata.normalize("NFC", word).split()).casefold()


def read_labels(
    cells: Sequence[Any], words: Sequence[str], where: str, *, optional: bool = False, first: int = 1
) -> dict[int, int | str]:
    """Row (from 0) -> its label as `label_of` reads it.

    Args:
        optional: whether a row may be without a label, and then is not in it.
        first: the number of the first row in messages.

    Raises:
        InputError: a cell holds no label.
    """
    labels = {}
    for row, cell in enumerate(cells):
        try:
            label = label_of(cell, words)
            if label is None and not optional:
                raise ValueError("a label is needed")
        except ValueError as error:
            raise InputError(
                f"{where}: the label of row {row + first} is {quote(cell)}; write a whole number, or text, for each row"
            ) from error
        if not (optional and label in (None, UNLABELLED)):
            labels[row] = label
    return labels


def kind_of_labels(labels: Mapping[int, int | str], where: str, first: int = 1) -> str:
    """`number`, where all labels (row, from 0 -> label) but -1 are whole numbers, else `text`.

    Raises:
        InputError: there are both.
    """
    kinds: dict[str, int] = {}
    for row, label in labels.items():
        if label != UNLABELLED:
            kinds.setdefault("text" if isinstance(label, str) else "number", row)
    if len(kinds) > 1:
        number, text = kinds["number"], kinds["text"]
        raise InputError(
            f"{where}: the label of row {number + first} is a number and that of row {text + first} text; choose one"
        )
    return next(iter(kinds), "number")


def _part(table: Table, source: Source, where: str) -> tuple[Table, int]:
    """The rows of the source's part, numbered anew, and the number of their first in the file.

    Of a file of another size, a first part is all of it.
    """
    part, size = source.part, len(next(iter(table.values())))
    if part is None or (size != part.of and part.start == 0):
        return table, 1
    if size != part.of:
        raise InputError(
            f"{where}: has {size} rows and not {part.of}, those of the hub, the last of which are wanted; {source.hint}"
        )
    return {name: values[part.start : part.stop] for name, values in table.items() if name != "idx"}, part.start + 1


def _texts(values: list[Any], column: str, bytes_literals: bool, where: str, first: int) -> list[str]:
    for row, value in enumerate(values, first):
        check_text(value, column, where, row)
    return [_decode(value, where, row) for row, value in enumerate(values, first)] if bytes_literals else values


def _decode(cell: str, where: str, row: int) -> str:
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
        raise InputError(f"{where}: {quote(cell)} in row {row} holds bytes that are no UTF-8; fix the file") from error


def _idx(cells: list[Any], where: str, first: int) -> list[int]:
    numbers = []
    for row, cell in enumerate(cells, first):
        try:
            numbers.append(whole_number(cell))
            if not -(2**63) <= numbers[-1] < 2**63:
                raise ValueError(f"{quote(cell)} has more than 64 bits")
        except ValueError as error:
            raise InputError(f"{where}: column idx, row {row}: {error}; fix or drop it") from error
    if repeat := first_repeat(numbers):
        one, other = (place + first for place in repeat)
        raise InputError(
            f"{where}: column idx holds the same number twice, {numbers[repeat[0]]} in rows {one} and {other}; make it unique or "
            "drop it"
        )
    return numbers
