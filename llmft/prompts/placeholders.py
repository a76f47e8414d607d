"""Upstream's placeholders for a soft prompt: a token repeated n times before the pattern."""

from __future__ import annotations

import re

from llmft.errors import InputError, quote

PLACEHOLDERS = re.compile(r"(?:</s>)+|(?:<unk>)+")


def take_off_placeholders(pattern: str, tokens: int, flag: str = "--pattern") -> str:
    """`"</s></s> {text1} ?"` -> `"{text1} ?"`: the soft prompt precedes every prompt anyway.

    A pattern without placeholders is returned unchanged.

    Args:
        tokens: length of the soft prompt, which must be the number of placeholders, if there are any.
        flag: the flag of the pattern, for the message.

    Raises:
        InputError: their number differs, or some are not at the start.
    """
    runs = list(PLACEHOLDERS.finditer(pattern))
    if not runs:
        return pattern
    if len(runs) > 1 or runs[0].start() > 0:
        raise InputError(f"{flag} {quote(pattern)}: the soft prompt comes before the pattern; write its placeholders there")
    written = len(re.findall("<", runs[0][0]))
    if written != tokens:
        raise InputError(
            f"{flag} {quote(pattern)}: {written} placeholders for --num_soft_prompt_tokens {tokens}; "
            "make the numbers equal, or leave the placeholders out"
        )
    return pattern[runs[0].end() :].removeprefix(" ")
