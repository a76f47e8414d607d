"""Upstream's placeholders of a soft prompt: tokens written n times in front of the pattern."""

from __future__ import annotations

import re

from llmft.errors import InputError, quote

PLACEHOLDERS = re.compile(r"(?:</s>)+|(?:<unk>)+")


def take_off_placeholders(pattern: str, tokens: int, flag: str = "--pattern") -> str:
    """`"</s></s> {text1} ?"` -> `"{text1} ?"`: the soft prompt stands in front of every prompt anyway.

    A pattern without placeholders stays as it is.

    Args:
        tokens: length of the soft prompt; as many placeholders must there be, if there are any.
        flag: where the pattern came from, for the message.

    Raises:
        InputError: there are more or fewer, or some elsewhere than in front.
    """
    runs = list(PLACEHOLDERS.finditer(pattern))
    if not runs:
        return pattern
    if len(runs) > 1 or runs[0].start() > 0:
        raise InputError(f"{flag} {quote(pattern)}: the soft prompt stands in front of the pattern; write its placeholders there")
    written = len(re.findall("<", runs[0][0]))
    if written != tokens:
        raise InputError(
            f"{flag} {quote(pattern)}: {written} placeholders for --num_soft_prompt_tokens {tokens}; "
            "write as many, or leave them out"
        )
    return pattern[runs[0].end() :].removeprefix(" ")
