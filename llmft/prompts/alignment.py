"""Whether two prompts of a row differ only by a context, so that what follows one can be learnt after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.prompts.chat_template import units
from llmft.prompts.prompter import Prompter
from llmft.prompts.verbalizer import SPACE_MARKS, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmft.prompts.demonstrations import Row
    from llmft.prompts.render import Piece


def check_alignment(teacher: Prompter, student: Prompter, rows: Sequence[Row]) -> None:
    """Check that the teacher's prompts are the student's with a context inserted at one place, as text and as tokens: from the
    end of the context to the start of the answer both are the same, and no token belongs to both context and query.

    If teacher and student use different patterns, only the text of the chat template is compared.

    Raises:
        InputError: they differ by more; the message shows both.
    """
    _check_fronts(teacher, student)
    formats = [prompter.prompt_format for prompter in (teacher, student)]
    if any(getattr(formats[0], name) != getattr(formats[1], name) for name in ("pattern", "prefix", "shown_labels")):
        return
    control, written = student.written(rows)
    queries = control.encode([*map(written.query, rows)])
    prompts = {who: prompter.tokenized(rows) for who, prompter in (("teacher", teacher), ("student", student))}
    for i, (row, query) in enumerate(zip(rows, queries, strict=True)):
        texts = [one.query(row) for one in formats]
        if texts[0] != texts[1]:
            raise InputError(
                f"--chat: teacher and student get different queries for row {row['idx']}, {quote(texts[0])} and "
                f"{quote(texts[1])}; choose a teacher with the same chat template"
            )
        wholes = {who: prompt.whole(i) for who, prompt in prompts.items()}
        if not _are_aligned(student.tokenizer, *wholes.values(), query):
            ends = ", ".join(f"the {who}'s {_around(student.tokenizer, whole, query)}" for who, whole in wholes.items())
            raise InputError(
                f"--context: the query of row {row['idx']} begins with different tokens after the context than without it, or "
                f"merges with its end: {ends}; separate them by other text (--separate_shots_by, --pattern, --context_role)"
            )


def _check_fronts(teacher: Prompter, student: Prompter) -> None:
    """Check the texts before a query: the teacher's must be the student's with the texts of the context inserted at one place,
    and turns at one place."""
    written = teacher.prompt_format
    without_turns = replace(written, turns=tuple(turn for turn in written.turns if turn.role == "system"))
    fronts = [
        _parted(student.tokenizer, student.prompt_format.front(student.demonstrations)),
        _parted(teacher.tokenizer, without_turns.front(())),
        _parted(teacher.tokenizer, written.front(teacher.demonstrations)),
    ]
    put_in = all(_is_put_in(short, long) for short, long in pairwise(fronts))
    if not put_in or not written.alike_turns(teacher.demonstrations):
        short, _, long = ("".join("..." if context else piece for piece, context in front) for front in fronts)
        raise InputError(
            f"--chat: the chat template of {teacher.tokenizer.name_or_path} makes teacher and student differ by more than the "
            f"context: before a query it writes {quote(long, 300)} for the teacher and {quote(short, 300)} for the student; "
            "use a --system_prompt, or --context_role user, or leave --chat out"
        )


def _parted(tokenizer: PreTrainedTokenizerBase, front: Sequence[Piece]) -> list[tuple[str, bool]]:
    """The text before a query, in units to compare; each with whether it is part of the context."""
    pieces = ((part, [part.text] if part.context else units(tokenizer, part.text)) for part in front)
    return [(piece, part.context) for part, texts in pieces for piece in texts]


def _is_put_in(short: list[tuple[str, bool]], long: list[tuple[str, bool]]) -> bool:
    """Whether the long one is the short one with something inserted at one place."""
    start = len(short) - len(_common(long[::-1], short[::-1]))
    return len(long) >= len(short) and long[:start] == short[:start]


def _are_aligned(tokenizer: PreTrainedTokenizerBase, teacher: list[int], student: list[int], query: list[int]) -> bool:
    """Whether two prompts end in the same tokens for the whole query, whose own tokens are given, except for its first word if
    the tokenizer puts a space before the first word of a text."""
    opens_with_space = _spelled(tokenizer, tokenizer("a", add_special_tokens=False).input_ids).startswith(tuple(SPACE_MARKS))
    spaces = SPACE_MARKS if opens_with_space else ""
    same = _common(teacher[::-1], student[::-1])[::-1]
    if len(_spelled(tokenizer, same)) >= len(_spelled(tokenizer, query).lstrip(spaces)):
        return True
    return opens_with_space and all(_ends_in(tokenizer, whole, query) for whole in (teacher, student))


def _ends_in(tokenizer: PreTrainedTokenizerBase, whole: list[int], query: list[int]) -> bool:
    """Whether a prompt ends in a query's tokens, except for those of its first word."""
    same = len(_common(whole[::-1], query[::-1]))
    word = _spelled(tokenizer, query[: len(query) - same]).lstrip(SPACE_MARKS)
    front = whole[: len(whole) - same]
    return any(_spelled(tokenizer, front[len(front) - n :]).lstrip(SPACE_MARKS) == word for n in range(len(word) + 2))


def _spelled(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(tokens))


def _around(tokenizer: PreTrainedTokenizerBase, whole: list[int], query: list[int]) -> str:
    """The tokens of a prompt around the start of its query."""
    place = len(whole) - len(_common(whole[::-1], query[::-1]))
    return f"...{shown(tokenizer, whole[max(0, place - 3) : place + 3])}"


def _common(left: Sequence[object], right: Sequence[object]) -> list[object]:
    """The common start of both."""
    return [pair[0] for pair in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))]
