"""A command-line flag as a field of a dataclass."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def flag(default: Any, text: str, **metadata: Any) -> Any:
    """A field with a default and a help text."""
    return field(default=default, metadata={"help": text, **metadata})
