"""Turns of a dialogue, checked; and a dialogue as a context, from a file of one JSON object a line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from llmft.arguments.checks import without_repeats
from llmft.errors import InputError, quote
from llmft.prompts.render import Turn, read_text

ROLES = ("system", "user", "assistant")
EXAMPLE = '{"role": "user", "content": "..."}'
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can write and no tokenizer can read."""


def read_turns(file: str, flag: str) -> tuple[Turn, ...]:
    """The turns of a file that a flag names: one `{"role": "user", "content": "..."}` a line, in order.

    Raises:
        InputError: the file cannot be read, or a line is not a turn.
    """
    lines = read_text(file, flag).split("\n")
    turns = tuple(_turn_of(line, f"{flag} {file}: line {number}") for number, line in enumerate(lines, 1) if line.strip())
    late = next((number for number, turn in enumerate(turns) if number and turn.role == "system"), None)
    if late is not None:
        raise InputError(f"{flag} {file}: turn {late + 1} has the role system; only the first may have it")
    return turns


def _turn_of(line: str, where: str) -> Turn:
    try:
        turn = json.loads(line, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); write {EXAMPLE} on each line") from error
    return read_turn(turn, ROLES, where)


def read_turn(turn: Any, roles: Sequence[str], where: str) -> Turn:
    """The turn that a JSON object with `role` and `content` means.

    Args:
        roles: those it may have.
        where: flag, file and place, for the error.

    Raises:
        InputError: it is not such an object, has another role, or no text that a tokenizer can read.
    """
    missing = [name for name in Turn._fields if not isinstance(turn, dict) or not isinstance(turn.get(name), str)]
    if missing:
        raise InputError(f"{where} has no text {' and '.join(missing)}; write {EXAMPLE}")
    role, content = turn["role"], turn["content"]
    if role not in roles:
        raise InputError(f"{where} has the role {quote(role)}; use {' or '.join(roles)}")
    if not content.strip():
        raise InputError(f"{where} has an empty content; add text, or drop the turn")
    if SURROGATE.search(content):
        raise InputError(f"{where} holds half a surrogate pair; fix the file")
    return Turn(role, content)
