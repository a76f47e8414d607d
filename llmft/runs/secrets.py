"""Keeps secrets out of records and messages: values of flags, keys and environment variables with names of secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

NAME = re.compile(r"(token|api_?key|secret|password|credentials?)$", re.IGNORECASE)
"""Endings of names of secrets; `target_tokens` and the like do not match."""
HIDDEN = "***"
SHORTEST = 8
"""Shorter values of environment variables are not replaced: they may occur in any text."""


def is_secret(name: str) -> bool:
    """Whether a flag, key or variable of this name holds a secret."""
    return NAME.search(name.replace("-", "_")) is not None


def without_secrets(value: Any) -> Any:
    """A JSON-able value with secrets replaced by `HIDDEN`: values of keys with such names, and secrets of the environment
    wherever they occur."""
    if isinstance(value, dict):
        return {k: HIDDEN if v and is_secret(str(k)) else without_secrets(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        for name, secret in os.environ.items():
            if is_secret(name) and len(secret) >= SHORTEST:
                value = value.replace(secret, HIDDEN)
    return value


def command_without_secrets(argv: Sequence[str]) -> list[str]:
    """A command line with its secrets replaced."""
    words: list[str] = []
    hide = False
    for word in argv:
        name, equals, _ = word.partition("=")
        flag = name.startswith("--") and is_secret(name)
        words.append(f"{name}={HIDDEN}" if flag and equals else HIDDEN if hide and not name.startswith("--") else word)
        hide = flag and not equals
    return without_secrets(words)
