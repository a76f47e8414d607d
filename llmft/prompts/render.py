"""The one prompt renderer: for demonstrations, queries, teacher and student alike.

    query         = pattern(text1, text2) + prefix            (never ends in a space)
    demonstration = query + " " + label word + separator
    context       = [preamble + separator] + [description + separator] + demonstrations

The space before a label belongs to the label, so that `tokens(query) + [label id]` is a prefix of `tokens(demonstration)`.
The text of an example is put in and never interpreted: braces and backslashes in it are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmft.errors import InputError, quote
from llmft.tasks.encodings import WrongFile, decode

LINE_END = re.compile(r"\r\n?")
PLACEHOLDER = re.compile(r"\{(\w*)\}")
FIELDS = ("text1", "text2")
CONTENT_FREE = ("N/A", "", "[MASK]")
"""Texts without content, of Zhao et al. 2021 (arXiv:2102.09690), section 5."""


def decode_escapes(text: str) -> str:
    r"""`\n` and `\t` as a shell passes them (two characters) become the newline and the tab they mean."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def escaped(text: str) -> str:
    r"""The opposite: newlines and tabs as the two characters that a shell passes."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def read_text(file: str, flag: str) -> str:
    """The text of a file that a flag names, its lines ended by newlines alone, without those at its end.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    try:
        text = LINE_END.sub("\n", decode(Path(file).read_bytes())).rstrip("\n")
    except (OSError, WrongFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{flag} {file}: cannot be read ({reason}); give a text file in UTF-8") from error
    if not text.strip():
        raise InputError(f"{flag} {file}: there is no text in it; give a file with some")
    return text


def text_or_file(value: str, flag: str) -> str:
    """The text that a flag gives, or that of the file it names.

    Raises:
        InputError: it is empty, or the file cannot be read.
    """
    if len(value) < 256 and Path(value).is_file():  # a longer text is no path, and asking the system would fail
        return read_text(value, flag)
    if not value.strip():
        raise InputError(f"{flag} {quote(value)}: there is no text in it; give some, or a file")
    if not any(letter.isspace() for letter in value) and ("/" in value or Path(value).suffix):
        raise InputError(f"{flag} {value}: looks like a file, and there is none of that name; give one, or words")
    return decode_escapes(value)


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
    preamble: str = ""
    """A text in front of everything, taken as it is."""
    shown_labels: tuple[str, ...] = ()
    """Words that a `{label}` in the pattern is replaced by, in label order: such a prompt shows its answer. Mostly none."""

    def __post_init__(self) -> None:
        found = PLACEHOLDER.findall(self.pattern)
        unknown = [name for name in found if name not in FIELDS and not (name == "label" and self.shown_labels)]
        if unknown:
            raise InputError(
                f"{self.pattern_flag} {quote(self.pattern)}: unknown placeholder {{{unknown[0]}}}; use {{text1}} and {{text2}}"
            )
        if self.shown_labels and "label" not in found:
            raise InputError(
                f"{self.pattern_flag} {quote(self.pattern)}: there is no {{label}} in it; put it where the label is shown"
            )
        if "text1" not in found:
            raise InputError(
                f"{self.pattern_flag} {quote(self.pattern)}: there is no {{text1}} in it; put it where the text goes"
            )
        for name in ("pattern", "prefix", "separator", "description"):
            object.__setattr__(self, name, self.decode(getattr(self, name)))

    def decode(self, text: str) -> str:
        """What a flag's text means."""
        return decode_escapes(text)

    def body(self, row: Mapping[str, Any]) -> str:
        """The pattern with the row's texts in it, which are text whatever they hold."""
        return PLACEHOLDER.sub(lambda match: self._shown(match[1], row), self.pattern)

    def _shown(self, name: str, row: Mapping[str, Any]) -> str:
        return self.shown_labels[row["label"]] if name == "label" else row[name] or ""

    def query(self, row: Mapping[str, Any]) -> str:
        """What the model reads before it answers."""
        return (self.body(row) + self.prefix).rstrip(" ")

    def demonstration(self, row: Mapping[str, Any]) -> str:
        """The query with its right answer, and the separator."""
        return f"{self.query(row)} {self.words[row['label']]}{self.separator}"

    def context(self, demonstrations: Sequence[Mapping[str, Any]]) -> str:
        """Preamble and description, if there are any, and the demonstrations in the order given; "" for nothing."""
        head = "".join(text + self.separator for text in (self.preamble, self.description) if text)
        return head + "".join(map(self.demonstration, demonstrations))

    @property
    def front_flag(self) -> str:
        """The flag that puts most in front of a query where there are no demonstrations, for messages."""
        if self.preamble:
            return "--context"
        return "--task_description" if self.description else "--pattern"

    def content_free_queries(self) -> list[str]:
        """Queries that hold no evidence for any label; what the model answers to them is its bias."""
        queries = [self.query({"text1": text, "text2": text}) for text in CONTENT_FREE]
        return [query for query in queries if query]  # a bare pattern makes nothing of an empty text


@dataclass(frozen=True)
class UpstreamPromptFormat(PromptFormat):
    r"""The very strings of uds-lsv/llmft, for comparison with published numbers.

    Shots and query are joined in different ways there: a shot has the prefix as it was given and the label word right behind
    it, a query has one space and the prefix without its outer spaces, so that the minimal format (prefix " ") ends in a
    stray space. `\n` from a shell stays two characters. Shots of fine-tuning do not exist: there a query is the pattern alone.
    """

    def decode(self, text: str) -> str:
        """The text as it is."""
        return text

    def query(self, row: Mapping[str, Any]) -> str:
        """What the model reads before it answers."""
        return self.body(row) + (f" {self.prefix.strip()}" if self.prefix else "")

    def demonstration(self, row: Mapping[str, Any]) -> str:
        """The pattern, the prefix as given, the label word, the separator."""
        return f"{self.body(row)}{self.prefix}{self.words[row['label']]}{self.separator}"
