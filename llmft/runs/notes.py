"""Notes: things that the user should know but need not fix."""

from __future__ import annotations

import sys

from llmft.runs.launch import this_process


def say_note(line: str, kind: str = "note") -> None:
    """Write a note, or another `kind` of line (`warning`), to stderr, only once across ranks."""
    if this_process().is_first:
        print(f"{kind}: {line}", file=sys.stderr)
