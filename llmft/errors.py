"""The one kind of error that is the user's to fix: entry scripts print it as a single line and exit with status 2."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 2000
"""Characters of a message; a longer one, made long by a value in it, loses its middle."""


class InputError(ValueError):
    """Bad input. The message is one line naming the flag (or file), its value, and the remedy.

    Args:
        message: line breaks in it, which values and other libraries' reasons may hold, become spaces.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[5 - LONGEST // 2 :]}")


def quote(value: object, limit: int = 100) -> str:
    """A value as messages show it: as Python writes it, of at most `limit` characters."""
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit - 4]}...{shown[-1]}"


def one_line(error: object) -> str:
    """A message as one line of at most 300 characters."""
    line = " ".join(str(error).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def listed(names: Iterable[object]) -> str:
    """Names with commas between, of at most 300 characters; one that is empty or has spaces around it is quoted."""
    return one_line(", ".join(name if name and name == name.strip() else quote(name) for name in map(str, names)))
