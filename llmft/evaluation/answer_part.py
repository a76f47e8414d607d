"""The part of a model's output that is its answer, when it has thought first (Snell et al. 2022, arXiv:2209.15189)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


class AnswerPart(NamedTuple):
    """What the first group of a pattern matches.

    Attributes:
        text: the match, stripped of white space.
        begin: the token in which it begins; it extends to the last token.
        whole_token: whether that token has only white space before it.
        ends_answer: whether only white space follows it.
    """

    text: str
    begin: int
    whole_token: bool
    ends_answer: bool


def match_of(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """A pattern's first match in a text; None if there is none, or its group has only white space."""
    match = pattern.search(text)
    return match if match is not None and (match[1] or "").strip() else None


def find_part(pattern: re.Pattern[str], ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> AnswerPart | None:
    """The part of an answer that a pattern's first match gives; None if there is no match, or the part is empty. The answer is
    cut between its tokens and never tokenized again.

    Args:
        ids: tokens of the answer.
        decode: returns the text of tokens.
    """
    text = decode(ids)
    match = match_of(pattern, text)
    if match is None:
        return None
    part = match[1].strip()
    start, begin, front = text.index(part, match.start(1)), 0, ""
    for count in range(1, len(ids)):
        before = decode(ids[:count])
        if len(before) > start:
            break
        if text.startswith(before):  # else a token is part of a letter, or changes how the previous one is written
            begin, front = count, before
    return AnswerPart(part, begin, not text[len(front) : start].strip(), not text[match.end(1) :].strip())
