"""The part of what a model wrote that is its answer, where it has thought first (Snell et al. 2022, arXiv:2209.15189)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


class AnswerPart(NamedTuple):
    """What the first group of a pattern matches.

    Attributes:
        text: that, without white space around.
        begin: the token that it begins in; it goes on to the last.
        whole_token: whether that token holds nothing but white space in front of it.
        ends_answer: whether nothing but white space follows it.
    """

    text: str
    begin: int
    whole_token: bool
    ends_answer: bool


def match_of(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Where a pattern matches a text first; None where it does not, or its group has nothing but white space."""
    match = pattern.search(text)
    return match if match is not None and (match[1] or "").strip() else None


def find_part(pattern: re.Pattern[str], ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> AnswerPart | None:
    """The part of an answer where a pattern matches first; None where it does not, or the part is empty. Tokens are cut between,
    never made anew.

    Args:
        ids: tokens of the answer.
        decode: gives the text of tokens.
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
        if text.startswith(before):  # else a token is a piece of a letter, or changes how the one before it is written
            begin, front = count, before
    return AnswerPart(part, begin, not text[len(front) : start].strip(), not text[match.end(1) :].strip())
