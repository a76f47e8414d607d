"""What the user should know and need not fix."""

from __future__ import annotations

import sys

from llmft.runs.launch import this_process


def say_note(line: str, kind: str = "note") -> None:
    """Write a note, or another `kind` of line (`warning`), to stderr, once for all ranks."""
    if this_process().is_first:
        print(f"{kind}: {line}", file=sys.stderr)
