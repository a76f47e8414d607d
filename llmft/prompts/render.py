"""The one prompt renderer: for demonstrations, queries, teacher and student alike.

    query         = pattern(text1, text2) + prefix            (never ends in a space)
    demonstration = query + " " + label word + separator
    context       = [description + separator] + demonstrations

The space before a label belongs to the label, so that `tokens(query) + [label id]` is a prefix of `tokens(demonstration)`.
The text of an example is put in and never interpreted: braces and backslashes in it are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmft.errors import InputError

PLACEHOLDER = re.compile(r"\{(\w*)\}")
FIELDS = ("text1", "text2")
CONTENT_FREE = ("N/A", "", "[MASK]")
"""Texts without content, of Zhao et al. 2021 (arXiv:2102.09690), section 5."""


def decode_escapes(text: str) -> str:
    r"""`\n` and `\t` as a shell passes them (two characters) become the newline and the tab they mean."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


@dataclass(frozen=True)
class PromptFormat:
    """How a row becomes text. `words` are the label words in label order, without their space."""

    pattern: str
    prefix: str
    separator: str
    words: tuple[str, ...]
    description: str = ""
    pattern_flag: str = "--pattern"
    words_flag: str = "--target_tokens"
    """The flags that `pattern` and `words` came from, for error messages."""

    def __post_init__(self) -> None:
        found = PLACEHOLDER.findall(self.pattern)
        unknown = [name for name in found if name not in FIELDS]
        if unknown:
            raise InputError(
                f"{self.pattern_flag} {self.pattern!r}: unknown placeholder {{{unknown[0]}}}; use {{text1}} and {{text2}}"
            )
        if "text1" not in found:
            raise InputError(f"{self.pattern_flag} {self.pattern!r}: there is no {{text1}} in it; put it where the text goes")
        for name in ("pattern", "prefix", "separator", "description"):
            object.__setattr__(self, name, decode_escapes(getattr(self, name)))

    def query(self, row: Mapping[str, Any]) -> str:
        """What the model reads before it answers."""
        body = PLACEHOLDER.sub(lambda match: row[match[1]] or "", self.pattern)
        return (body + self.prefix).rstrip(" ")

    def demonstration(self, row: Mapping[str, Any]) -> str:
        """The query with its right answer, and the separator."""
        return f"{self.query(row)} {self.words[row['label']]}{self.separator}"

    def context(self, demonstrations: Sequence[Mapping[str, Any]]) -> str:
        """The description, if there is one, and the demonstrations in the order given; "" for none."""
        head = self.description + self.separator if self.description else ""
        return head + "".join(map(self.demonstration, demonstrations))

    def content_free_queries(self) -> list[str]:
        """Queries that hold no evidence for any label; what the model answers to them is its bias."""
        queries = [self.query({"text1": text, "text2": text}) for text in CONTENT_FREE]
        return [query for query in queries if query]  # a bare pattern makes nothing of an empty text
