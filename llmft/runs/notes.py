"""What the user should know and need not fix."""

from __future__ import annotations

import sys

from llmft.runs.launch import this_process


def say_note(line: str) -> None:
    """Write a note to stderr, once for all ranks."""
    if this_process().is_first:
        print(f"note: {line}", file=sys.stderr)
