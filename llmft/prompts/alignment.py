"""Whether two prompts of a row differ by a context alone, so that what is said behind one can be learned behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.prompts.chat_template import units
from llmft.prompts.prompter import Prompter
from llmft.prompts.verbalizer import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmft.prompts.demonstrations import Row

CHECKED = 16
"""Rows of the longest queries, and of the shortest, whose tokens are compared."""


def check_alignment(teacher: Prompter, student: Prompter, rows: Sequence[Row]) -> None:
    """Check that the teacher's prompts are the student's with a context put in at one place, as text and as tokens: from where
    the context ends to where the answer begins both are the same, and no token is part of the context and of the query.

    Where teacher and student ask in different patterns only what a chat template writes is compared.

    Args:
        rows: of any number; of many, those with the longest and the shortest queries are looked at.

    Raises:
        InputError: they differ by more; both ends are shown.
    """
    _check_fronts(teacher, student)
    formats = [prompter.prompt_format for prompter in (teacher, student)]
    if any(getattr(formats[0], name) != getattr(formats[1], name) for name in ("pattern", "prefix", "shown_labels")):
        return
    rows = sorted(rows, key=lambda row: len(formats[1].query(row)))
    rows = [*rows[:CHECKED], *rows[CHECKED:][-CHECKED:]]
    control, written = student.written(rows)
    queries = control.encode([*map(written.query, rows)])
    prompts = {who: prompter.tokenized(rows) for who, prompter in (("teacher", teacher), ("student", student))}
    for i, (row, query) in enumerate(zip(rows, queries, strict=True)):
        texts = [one.query(row) for one in formats]
        if texts[0] != texts[1]:
            raise InputError(
                f"--chat: teacher and student ask otherwise about row {row['idx']}, {quote(texts[0])} and {quote(texts[1])}; "
                "choose a teacher of the same chat template"
            )
        wholes = {who: prompt.whole(i) for who, prompt in prompts.items()}
        if not all(_ends_in(student.tokenizer, whole, query) for whole in wholes.values()):
            ends = ", ".join(f"the {who}'s {_around(student.tokenizer, whole, query)}" for who, whole in wholes.items())
            raise InputError(
                f"--context: the query of row {row['idx']} begins with other tokens behind the context than without it, or "
                f"merges with its end: {ends}; separate them by other text (--separate_shots_by, --pattern, --context_role)"
            )


def _check_fronts(teacher: Prompter, student: Prompter) -> None:
    """Check the texts in front of a query: the teacher's are the student's with the context in one place."""
    fronts = []
    for prompter in (teacher, student):
        front: list[tuple[str, bool]] = []
        for part in prompter.prompt_format.front(prompter.demonstrations):
            pieces = [part.text] if part.context else units(prompter.tokenizer, part.text)
            front += [(piece, part.context) for piece in pieces]
        fronts.append(front)
    long, short = fronts
    end = len(_common(long[::-1], short[::-1]))
    start = short[: len(short) - end]
    if long[: len(start)] != start or len(long) < len(short) or not teacher.prompt_format.alike_turns(teacher.demonstrations):
        written = [quote("".join(piece if not context else "..." for piece, context in front), 300) for front in fronts]
        raise InputError(
            f"--chat: the chat template of {teacher.tokenizer.name_or_path} makes teacher and student differ by more than the "
            f"context: in front of a query it writes {written[0]} for the teacher and {written[1]} for the student; give a "
            "--system_prompt for both, or --context_role user, or leave --chat out"
        )


def _ends_in(tokenizer: PreTrainedTokenizerBase, whole: list[int], query: list[int]) -> bool:
    """Whether a prompt ends in a query's tokens.

    The query's first word may be in other tokens: some tokenizers put a space in front of a text's first word.
    """
    same = len(_common(whole[::-1], query[::-1]))
    if same == len(query):
        return True
    first = tokenizer.decode(query[: len(query) - same]).lstrip(" ")
    front = whole[: len(whole) - same]
    return first != "" and any(tokenizer.decode(front[-n:]).lstrip(" ") == first for n in range(1, len(first.encode()) + 2))


def _around(tokenizer: PreTrainedTokenizerBase, whole: list[int], query: list[int]) -> str:
    """The tokens of a prompt where its query begins."""
    place = len(whole) - len(_common(whole[::-1], query[::-1]))
    return f"...{shown(tokenizer, whole[max(0, place - 3) : place + 3])}"


def _common(left: Sequence[object], right: Sequence[object]) -> list[object]:
    """What both begin with."""
    return [pair[0] for pair in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))]
