"""The only prompt renderer, for demonstrations and queries, teacher and student.

    query         = [turns before it] + pattern(text1, text2) + prefix + delimiter            (never ends in a space)
    demonstration = query + space + answer + separator                   (a label's word, or a text row's first answer)
    context       = [instruction + separator] + [document + separator] + [description + separator] + [turns + separator]
                    + demonstrations

Spaces at the end of the delimiter belong to the answer, so that `tokens(query) + tokens(answer)` is a prefix of
`tokens(demonstration)`.
The text of an example is inserted without interpretation: braces, backslashes and control tokens in it are text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmft.arguments.encodings import WrongFile, decode
from llmft.errors import InputError, quote
from llmft.prompts.control import ControlTokens, control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmft.arguments.context import ContextFile


LINE_END = re.compile(r"\r\n?")
PLACEHOLDER = re.compile(r"\{(\w*)\}")
FIELDS = ("text1", "text2")
CONTENT_FREE = ("N/A", "", "[MASK]")
"""Content-free texts of Zhao et al. 2021 (arXiv:2102.09690), section 5."""
UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "BOPOMOFO ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
"""Starts of Unicode names of letters in scripts without spaces between words."""


@cache
def is_unspaced(character: str) -> bool:
    """Whether a character is a letter of a script without spaces between words."""
    return unicodedata.name(character, "").startswith(UNSPACED)


def decode_escapes(text: str) -> str:
    r"""Replace `\n` and `\t` as passed by a shell (two characters) by a newline and a tab."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def escaped(text: str) -> str:
    r"""The opposite: newlines and tabs as the two characters passed by a shell."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def read_text(file: str, flag: str) -> str:
    """The text of a file that a flag names, with newlines as line ends and without newlines at its end.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    leave_out = "leave it out with --context_glob" if flag == "--context_dir" else ""
    try:
        text = LINE_END.sub("\n", decode(Path(file).read_bytes())).rstrip("\n")
    except (OSError, WrongFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{flag} {file}: cannot be read ({reason}); {leave_out or 'name a text file in UTF-8'}") from error
    if not text.strip():
        raise InputError(f"{flag} {file}: the file has no text; {leave_out or 'name another file'}")
    return text


def read_context(file: ContextFile) -> str:
    """The text of a file for a context, preceded by its name if that is shown.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    return file.head + read_text(file.path, file.flag)


def text_or_file(value: str, flag: str) -> str:
    """The text given by a flag, or in the file that it names.

    Raises:
        InputError: it is empty, or the file cannot be read.
    """
    if names_file(value):
        return read_text(value, flag)
    if not value.strip():
        raise InputError(f"{flag} {quote(value)}: is empty; give a text, or name a file")
    if not any(letter.isspace() for letter in value) and ("/" in value or Path(value).suffix):
        raise InputError(
            f"{flag} {value}: looks like a file name, but there is no such file; name a file, or write a text of several words"
        )
    return decode_escapes(value)


def names_file(value: str) -> bool:
    """Whether the value of a flag that takes a text or a file names a file."""
    return len(value) < 256 and Path(value).is_file()  # a longer text is not a path, and the system would raise an error


def row_texts(row: Mapping[str, Any]) -> list[str]:
    """The texts that a row adds to prompts, including accepted answers and earlier turns."""
    turns = (turn.content for turn in row.get("history", ()))
    return [*turns, *(row.get(name) or "" for name in FIELDS), *(row.get("answer") or ())]


class Turn(NamedTuple):
    """A turn of a dialogue, by `user`, `assistant` or, only the first one, `system`."""

    role: str
    content: str


class Piece(NamedTuple):
    """A part of the text before a query: either of the context, or present without one as well."""

    text: str
    context: bool = False


@dataclass(frozen=True)
class PromptFormat:
    """How a row becomes text. `words` are the label words in label order, without their space; empty for text answers."""

    pattern: str
    prefix: str
    separator: str
    words: tuple[str, ...]
    description: str = ""
    pattern_flag: str = "--pattern"
    words_flag: str = "--target_tokens"
    """The flags that `pattern` and `words` came from, for error messages."""
    instruction: str = ""
    """A text before everything else, treated like the pattern: control tokens in it act as such."""
    document: str = ""
    """A file's text after the instruction, taken literally: control tokens in it are text, as in a row."""
    shown_labels: tuple[str, ...] = ()
    """Words that replace a `{label}` in the pattern, in label order: such a prompt shows its answer. Usually empty."""
    delimiter: str | None = None
    """Text between query and label; None for the default that `settled` derives."""
    default_delimiter: bool = False
    """Whether `settled` has chosen it."""
    delimiter_flag: str = ""
    """Flag and value that it came from if that is not --label_delimiter, for error messages."""
    turns: tuple[Turn, ...] = ()
    """An earlier dialogue, taken literally."""

    def __post_init__(self) -> None:
        names = PLACEHOLDER.findall(self.pattern)
        unknown = [name for name in names if name not in FIELDS and not (name == "label" and self.shown_labels)]
        fault = None
        if unknown:
            fault = f"unknown placeholder {{{unknown[0]}}}; use {{text1}} and {{text2}}"
        elif self.shown_labels and "label" not in names:
            fault = "has no {label}; put it where the label is shown"
        elif "text1" not in names:
            fault = "has no {text1}; put it where the text goes"
        if fault:
            raise InputError(f"{self.pattern_flag} {quote(self.pattern)}: {fault}")
        for name in ("pattern", "prefix", "separator", "description", "delimiter"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self.decode(getattr(self, name)))

    def check_texts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that the rows have the texts that the pattern shows.

        Raises:
            InputError: one has no second text.
        """
        if "{text2}" in self.pattern and any(row.get("text2") is None for row in rows):
            raise InputError(
                f"{self.pattern_flag} {quote(self.pattern)}: has {{text2}}, but there are rows without a second text; drop "
                "{text2}, or, for files of your own, name the second text's column with --text2_column"
            )

    def decode(self, text: str) -> str:
        """The decoded text of a flag."""
        return decode_escapes(text)

    def body(self, row: Mapping[str, Any]) -> str:
        """The pattern with the row's texts inserted literally."""
        return PLACEHOLDER.sub(lambda match: self._shown(match[1], row), self.pattern)

    def _shown(self, name: str, row: Mapping[str, Any]) -> str:
        return self.shown_labels[row["label"]] if name == "label" else row[name] or ""

    def settled(self, control_tokens: Iterable[str] = ()) -> PromptFormat:
        """This format with the default delimiter if none is given.

        It is empty if the format ends the query in white space other than spaces or in a control token, after which models answer
        without a space, and before words in a script without spaces. Otherwise it is a space.
        """
        if self.delimiter is not None:
            return self
        end = (PLACEHOLDER.split(self.pattern)[-1] + self.prefix).rstrip(" ")
        bare = end[-1:].isspace() or end.endswith(tuple(control_tokens))
        unspaced = bool(self.words) and all(is_unspaced(word[0]) for word in self.words)
        return replace(self, delimiter="" if bare or unspaced else " ", default_delimiter=True)

    def read_by(self, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """This format, settled for this tokenizer."""
        return self.settled(control_tokens(tokenizer))

    @property
    def opens_itself(self) -> bool:
        """Whether the format writes the beginning of a text itself, so that the tokenizer's is not added."""
        return False

    @property
    def opening(self) -> str:
        """The text before a query without a context."""
        return ""

    def alike_turns(self, demonstrations: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the text around a query is independent of what comes before."""
        return True

    @property
    def end_flag(self) -> str:
        """The flag that determines the end of a query, with its value, for messages."""
        if self.delimiter is None or self.default_delimiter:
            return f"{self.pattern_flag} {quote(self.pattern)}"
        return self.delimiter_flag or f"--label_delimiter {quote(self.delimiter)}"

    @property
    def end_remedy(self) -> str:
        """What to do about rows whose answer merges with the end of the query, for messages."""
        if self.delimiter_flag:
            return "leave rows like it out, as --no_whole_lines of llmft.tasks.completions does if a query ends in a new line"
        return "begin the answer or end the query differently (--label_delimiter, --pattern; without --chat)"

    def written_as(self, mark: Callable[[str], str]) -> PromptFormat:
        """This format with `mark` applied to all text that the format writes itself, but not to rows' or files' texts."""
        settled, names = self.settled(), ("pattern", "prefix", "separator", "description", "instruction", "delimiter")
        texts = {name: mark(getattr(settled, name)) for name in names}
        words = {name: tuple(map(mark, getattr(settled, name))) for name in ("words", "shown_labels")}
        return replace(settled, **texts, **words)

    def control(self, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Mapping[str, Any]]) -> ControlTokens:
        """The tokenizer's control tokens, for prompts made of these rows."""
        return ControlTokens.create(tokenizer, [*(text for row in rows for text in row_texts(row)), *self.taken_texts])

    @property
    def taken_texts(self) -> list[str]:
        """The texts other than those of rows that are taken literally."""
        return [self.document, *(turn.content for turn in self.turns)]

    @property
    def space(self) -> str:
        """The text between a query, which includes the rest of the delimiter, and its answer: spaces or nothing."""
        delimiter = self.settled().delimiter
        return delimiter[len(delimiter.rstrip(" ")) :]

    def history(self, row: Mapping[str, Any]) -> str:
        """The turns before a row's query, if it is part of a conversation; teacher and student read them."""
        return "".join(f"{turn.role}: {turn.content}\n" for turn in row.get("history", ()))

    def check_histories(self, demonstrations: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that the rows' histories are the same with and without the context: plain lines always are."""

    def query(self, row: Mapping[str, Any]) -> str:
        """What the model reads before it answers."""
        return self.history(row) + (self.body(row) + self.prefix).rstrip(" ") + self.settled().delimiter.rstrip(" ")

    def answer(self, row: Mapping[str, Any]) -> str:
        """The text of the correct answer: its label word, or the first of a row's texts."""
        return self.words[row["label"]] if self.words else row["answer"][0]

    def demonstration(self, row: Mapping[str, Any]) -> str:
        """The query with its correct answer, and the separator."""
        return f"{self.query(row)}{self.space}{self.answer(row)}{self.separator}"

    def context(self, demonstrations: Sequence[Mapping[str, Any]]) -> str:
        """Everything before a query; "" for nothing."""
        return "".join(part.text for part in self.front(demonstrations))

    def front(self, demonstrations: Sequence[Mapping[str, Any]]) -> list[Piece]:
        """The texts before the demonstrations, if any, and the demonstrations in the order given."""
        dialogue = "\n".join(f"{turn.role}: {turn.content}" for turn in self.turns)
        head = [text + self.separator for text in (self.instruction, self.document, self.description, dialogue) if text]
        return [Piece(text, context=True) for text in (*head, *map(self.demonstration, demonstrations))]

    def end_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)

    @property
    def stops(self) -> tuple[str, ...]:
        """What follows an answer in the context."""
        return (self.separator,) if self.separator else ()

    @property
    def front_flag(self) -> str:
        """The flag that adds most to the text before a query if there are no demonstrations, for messages."""
        if self.instruction or self.document or self.turns:
            return "--context"
        return "--task_description" if self.description else "--pattern"

    def content_free_rows(self) -> list[dict[str, str]]:
        """Rows without evidence for any label; the model's answers to them show its bias."""
        rows = [{"text1": text, "text2": text} for text in CONTENT_FREE]
        return [row for row in rows if self.query(row)]  # a bare pattern with an empty text is empty


@dataclass(frozen=True)
class UpstreamPromptFormat(PromptFormat):
    r"""The exact strings of uds-lsv/llmft, for comparison with published numbers.

    It joins shots and queries in different ways: a shot has the prefix as given, directly followed by the label word; a query
    has one space and the prefix without its outer spaces, so that the minimal format (prefix " ") ends in a stray space. `\n`
    from a shell stays two characters. Fine-tuning has no shots: there a query is just the pattern.
    """

    @property
    def space(self) -> str:
        """Always a space, whatever the end of the query."""
        return " "

    def control(self, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Mapping[str, Any]]) -> ControlTokens:
        """Empty: control tokens in rows act as such, and a text gets its beginning-of-text token even if it has one."""
        return ControlTokens(tokenizer, {})

    def decode(self, text: str) -> str:
        """The unchanged text."""
        return text

    def query(self, row: Mapping[str, Any]) -> str:
        """What the model reads before it answers."""
        return self.history(row) + self.body(row) + (f" {self.prefix.strip()}" if self.prefix else "")

    def demonstration(self, row: Mapping[str, Any]) -> str:
        """The pattern, the prefix as given, the answer, the separator."""
        return f"{self.history(row)}{self.body(row)}{self.prefix}{self.answer(row)}{self.separator}"
