"""The one prompt renderer: for demonstrations, queries, teacher and student alike.

    query         = [turns before it] + pattern(text1, text2) + prefix + delimiter            (never ends in a space)
    demonstration = query + space + answer + separator                   (a label's word, or a text row's first answer)
    context       = [instruction + separator] + [document + separator] + [description + separator] + [turns + separator]
                    + demonstrations

The spaces at the delimiter's end belong to the answer, so that `tokens(query) + tokens(answer)` is a prefix of
`tokens(demonstration)`.
The text of an example is put in and never interpreted: braces, backslashes and control tokens in it are text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
"""Texts without content, of Zhao et al. 2021 (arXiv:2102.09690), section 5."""
UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "BOPOMOFO ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
"""What Unicode's names of letters begin with in scripts that put no space between words."""


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


def read_context(file: ContextFile) -> str:
    """The text of a file for a context, its name in front where that is shown.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    return file.head + read_text(file.path, file.flag)


def text_or_file(value: str, flag: str) -> str:
    """The text that a flag gives, or that of the file it names.

    Raises:
        InputError: it is empty, or the file cannot be read.
    """
    if names_file(value):
        return read_text(value, flag)
    if not value.strip():
        raise InputError(f"{flag} {quote(value)}: there is no text in it; give some, or a file")
    if not any(letter.isspace() for letter in value) and ("/" in value or Path(value).suffix):
        raise InputError(f"{flag} {value}: looks like a file, and there is none of that name; give one, or words")
    return decode_escapes(value)


def names_file(value: str) -> bool:
    """Whether a flag that takes a text or a file names a file."""
    return len(value) < 256 and Path(value).is_file()  # a longer text is no path, and asking the system would fail


def row_texts(row: Mapping[str, Any]) -> list[str]:
    """The texts that a row brings into prompts, accepted answers and earlier turns included."""
    turns = (turn.content for turn in row.get("history", ()))
    return [*turns, *(row.get(name) or "" for name in FIELDS), *(row.get("answer") or ())]


class Turn(NamedTuple):
    """What one side of a dialogue says: `user`, `assistant`, or, in the first turn, `system`."""

    role: str
    content: str


class Piece(NamedTuple):
    """A part of what stands in front of a query: of the context, or there without one too."""

    text: str
    context: bool = False


@dataclass(frozen=True)
class PromptFormat:
    """How a row becomes text. `words` are the label words in label order, without their space; none where answers are texts."""

    pattern: str
    prefix: str
    separator: str
    words: tuple[str, ...]
    description: str = ""
    pattern_flag: str = "--pattern"
    words_flag: str = "--target_tokens"
    """The flags that `pattern` and `words` came from, for error messages."""
    instruction: str = ""
    """A text in front of everything, written as the pattern is: control tokens in it are meant."""
    document: str = ""
    """A file's text behind it, taken as it is: control tokens in it are text, as in a row."""
    shown_labels: tuple[str, ...] = ()
    """Words that a `{label}` in the pattern is replaced by, in label order: such a prompt shows its answer. Mostly none."""
    delimiter: str | None = None
    """What stands between query and label; None for what `settled` makes of the rest."""
    default_delimiter: bool = False
    """Whether `settled` has chosen it."""
    turns: tuple[Turn, ...] = ()
    """A dialogue that has gone before, taken as it is."""

    def __post_init__(self) -> None:
        names = PLACEHOLDER.findall(self.pattern)
        unknown = [name for name in names if name not in FIELDS and not (name == "label" and self.shown_labels)]
        fault = None
        if unknown:
            fault = f"unknown placeholder {{{unknown[0]}}}; use {{text1}} and {{text2}}"
        elif self.shown_labels and "label" not in names:
            fault = "there is no {label} in it; put it where the label is shown"
        elif "text1" not in names:
            fault = "there is no {text1} in it; put it where the text goes"
        if fault:
            raise InputError(f"{self.pattern_flag} {quote(self.pattern)}: {fault}")
        for name in ("pattern", "prefix", "separator", "description", "delimiter"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self.decode(getattr(self, name)))

    def decode(self, text: str) -> str:
        """What a flag's text means."""
        return decode_escapes(text)

    def body(self, row: Mapping[str, Any]) -> str:
        """The pattern with the row's texts in it, which are text whatever they hold."""
        return PLACEHOLDER.sub(lambda match: self._shown(match[1], row), self.pattern)

    def _shown(self, name: str, row: Mapping[str, Any]) -> str:
        return self.shown_labels[row["label"]] if name == "label" else row[name] or ""

    def settled(self, control_tokens: Iterable[str] = ()) -> PromptFormat:
        """The same with the delimiter that stands if none is given.

        Nothing behind white space other than spaces or a control token that the format writes at the query's end, where a model
        answers without a space; nor in front of words of a script without spaces. Else a space.
        """
        if self.delimiter is not None:
            return self
        end = (PLACEHOLDER.split(self.pattern)[-1] + self.prefix).rstrip(" ")
        bare = end[-1:].isspace() or end.endswith(tuple(control_tokens))
        unspaced = bool(self.words) and all(unicodedata.name(word[0], "").startswith(UNSPACED) for word in self.words)
        return replace(self, delimiter="" if bare or unspaced else " ", default_delimiter=True)

    def read_by(self, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """The same, settled for this tokenizer."""
        return self.settled(control_tokens(tokenizer))

    @property
    def opens_itself(self) -> bool:
        """Whether the format writes a text's beginning itself, so that the tokenizer's is not added."""
        return False

    @property
    def opening(self) -> str:
        """What is written in front of a query where there is no context."""
        return ""

    def alike_turns(self, demonstrations: Sequence[Mapping[str, Any]]) -> bool:
        """Whether what is written around a query does not go by what has gone before."""
        return True

    @property
    def end_flag(self) -> str:
        """The flag that a query ends as it does by, and its value, for messages."""
        given = self.delimiter is not None and not self.default_delimiter
        return f"--label_delimiter {quote(self.delimiter)}" if given else f"{self.pattern_flag} {quote(self.pattern)}"

    def written_as(self, mark: Callable[[str], str]) -> PromptFormat:
        """The same with all that the format writes itself, and no row's or file's text, put through `mark`."""
        settled, names = self.settled(), ("pattern", "prefix", "separator", "description", "instruction", "delimiter")
        texts = {name: mark(getattr(settled, name)) for name in names}
        words = {name: tuple(map(mark, getattr(settled, name))) for name in ("words", "shown_labels")}
        return replace(settled, **texts, **words)

    def control(self, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Mapping[str, Any]]) -> ControlTokens:
        """The tokenizer's control tokens, for prompts made of these rows."""
        return ControlTokens.create(tokenizer, [*(text for row in rows for text in row_texts(row)), *self.taken_texts])

    @property
    def taken_texts(self) -> list[str]:
        """The texts beside rows' that are taken as they are."""
        return [self.document, *(turn.content for turn in self.turns)]

    @property
    def space(self) -> str:
        """What stands between a query, which ends in the rest of the delimiter, and its answer: spaces or nothing."""
        delimiter = self.settled().delimiter
        return delimiter[len(delimiter.rstrip(" ")) :]

    def history(self, row: Mapping[str, Any]) -> str:
        """The turns that come before a row's query, if it is of a conversation; teacher and student read them."""
        return "".join(f"{turn.role}: {turn.content}\n" for turn in row.get("history", ()))

    def check_histories(self, demonstrations: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that the rows' histories are written alike behind the context and without: lines are."""

    def query(self, row: Mapping[str, Any]) -> str:
        """What the model reads before it answers."""
        return self.history(row) + (self.body(row) + self.prefix).rstrip(" ") + self.settled().delimiter.rstrip(" ")

    def answer(self, row: Mapping[str, Any]) -> str:
        """The right answer in words: its label's, or the first of a row's texts."""
        return self.words[row["label"]] if self.words else row["answer"][0]

    def demonstration(self, row: Mapping[str, Any]) -> str:
        """The query with its right answer, and the separator."""
        return f"{self.query(row)}{self.space}{self.answer(row)}{self.separator}"

    def context(self, demonstrations: Sequence[Mapping[str, Any]]) -> str:
        """All that stands in front of a query; "" for nothing."""
        return "".join(part.text for part in self.front(demonstrations))

    def front(self, demonstrations: Sequence[Mapping[str, Any]]) -> list[Piece]:
        """What stands in front, if anything does, and the demonstrations in the order given."""
        dialogue = "\n".join(f"{turn.role}: {turn.content}" for turn in self.turns)
        head = [text + self.separator for text in (self.instruction, self.document, self.description, dialogue) if text]
        return [Piece(text, context=True) for text in (*head, *map(self.demonstration, demonstrations))]

    def end_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)

    @property
    def stops(self) -> tuple[str, ...]:
        """What follows an answer that the context shows."""
        return (self.separator,) if self.separator else ()

    @property
    def front_flag(self) -> str:
        """The flag that puts most in front of a query where there are no demonstrations, for messages."""
        if self.instruction or self.document or self.turns:
            return "--context"
        return "--task_description" if self.description else "--pattern"

    def content_free_rows(self) -> list[dict[str, str]]:
        """Rows that hold no evidence for any label; what the model answers to them is its bias."""
        rows = [{"text1": text, "text2": text} for text in CONTENT_FREE]
        return [row for row in rows if self.query(row)]  # a bare pattern makes nothing of an empty text


@dataclass(frozen=True)
class UpstreamPromptFormat(PromptFormat):
    r"""The very strings of uds-lsv/llmft, for comparison with published numbers.

    Shots and query are joined in different ways there: a shot has the prefix as it was given and the label word right behind
    it, a query has one space and the prefix without its outer spaces, so that the minimal format (prefix " ") ends in a
    stray space. `\n` from a shell stays two characters. Shots of fine-tuning do not exist: there a query is the pattern alone.
    """

    @property
    def space(self) -> str:
        """Always a space, whatever the query ends in."""
        return " "

    def control(self, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Mapping[str, Any]]) -> ControlTokens:
        """None: control tokens in rows are such, and a text gets its beginning-of-text token even if it has one."""
        return ControlTokens(tokenizer, {})

    def decode(self, text: str) -> str:
        """The text as it is."""
        return text

    def query(self, row: Mapping[str, Any]) -> str:
        """What the model reads before it answers."""
        return self.history(row) + self.body(row) + (f" {self.prefix.strip()}" if self.prefix else "")

    def demonstration(self, row: Mapping[str, Any]) -> str:
        """The pattern, the prefix as given, the answer, the separator."""
        return f"{self.history(row)}{self.body(row)}{self.prefix}{self.answer(row)}{self.separator}"
