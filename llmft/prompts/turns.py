"""A dialogue as a context: its turns, from a file of one JSON object a line."""

from __future__ import annotations

import json
from typing import Any

from llmft.errors import InputError, quote
from llmft.prompts.render import Turn, read_text

ROLES = ("system", "user", "assistant")


def read_turns(file: str, flag: str) -> tuple[Turn, ...]:
    """The turns of a file that a flag names: `{"role": "user", "content": "..."}` a line, in order.

    Raises:
        InputError: it cannot be read, or a line is no turn.
    """
    lines = read_text(file, flag).split("\n")
    turns = tuple(_turn(line, f"{flag} {file}: line {number}") for number, line in enumerate(lines, 1) if line.strip())
    late = next((number for number, turn in enumerate(turns) if number and turn.role == "system"), None)
    if late is not None:
        raise InputError(f"{flag} {file}: turn {late + 1} is of the role system; only the first may be")
    return turns


def _turn(line: str, where: str) -> Turn:
    try:
        turn: Any = json.loads(line)
    except ValueError as error:
        raise InputError(f'{where} is not JSON ({error}); write {{"role": "user", "content": "..."}} a line') from error
    missing = [name for name in Turn._fields if not isinstance(turn, dict) or not isinstance(turn.get(name), str)]
    if missing:
        raise InputError(f'{where} has no text {" and ".join(missing)}; write {{"role": "user", "content": "..."}} a line')
    if turn["role"] not in ROLES:
        raise InputError(f"{where}: unknown role {quote(turn['role'])}; use {', '.join(ROLES)}")
    if not turn["content"].strip():
        raise InputError(f"{where}: the content is empty; give it some text, or leave the line out")
    return Turn(turn["role"], turn["content"])
