"""The error for everything that the user can fix: entry scripts print it as a single line and exit with status 2."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 2000
"""Maximum characters of a message; a longer one, which is due to a value in it, is cut in the middle."""


class InputError(ValueError):
    """Bad input. The message is one line naming the flag (or file), its value, and the remedy.

    Args:
        message: line breaks in it, which may come from values and from other libraries' messages, become spaces.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[5 - LONGEST // 2 :]}")


def quote(value: object, limit: int = 100) -> str:
    """A value for a message: its repr, cut to at most `limit` characters."""
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit - 4]}...{shown[-1]}"


def one_line(error: object) -> str:
    """A message as one line of at most 300 characters."""
    line = " ".join(str(error).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def listed(names: Iterable[object]) -> str:
    """Comma-separated names, cut to at most 300 characters; empty names and names with spaces around them are quoted."""
    return one_line(", ".join(name if name and name == name.strip() else quote(name) for name in map(str, names)))
