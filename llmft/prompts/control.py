"""Control tokens: a tokenizer's special tokens act as such only where a prompt's format writes them; in a row they are text.

A format's own texts go through `ControlTokens.mark`, which replaces each special token by a mark; rows are inserted unchanged.
Prompts whose rows do not contain special tokens are then tokenized as usual, after undoing the marks. The others are tokenized
by a copy of the tokenizer in which the special tokens are spelled as the marks, so that nothing else can become one. Everything
else in it is the same, including merges across the border of pattern and row. (transformers' `sanitize_control_tokens` splits
the text around each such token instead, which changes the neighbouring tokens, and rejects tokenizers whose vocabulary
contains it.)
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

NONCHARACTER = "\ufdd0"
"""Unicode reserves it for internal use: hardly any text contains it."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A byte of an unknown letter, as spelled by SentencePiece: plain text can produce it even if it is declared special."""


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer, for prompts made of some texts.

    Attributes:
        tokenizer: the tokenizer of the prompts.
        ids: control token -> its id; empty if rows' control tokens are not treated as text.
        fence: start and end of a mark; occurs in none of the rows' texts.
    """

    tokenizer: PreTrainedTokenizerBase
    ids: dict[str, int]
    fence: str = NONCHARACTER

    @classmethod
    def create(cls, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> ControlTokens:
        """For prompts that contain these texts of rows."""
        joined = "\n".join(texts)
        fence = next(fence for length in itertools.count(1) if (fence := NONCHARACTER * length) not in joined)
        return cls(tokenizer, control_tokens(tokenizer), fence)

    def mark(self, text: str) -> str:
        """A format's text, with each control token replaced by a mark."""
        return look_for(tuple(self.ids)).sub(lambda match: f"{self.fence}{self.ids[match[0]]}{self.fence}", text)

    def plain(self, marked: str) -> str:
        """The text before marking."""
        if self.fence not in marked:
            return marked
        names = {number: name for name, number in self.ids.items()}
        return self._marks.sub(lambda match: names[int(match[1])], marked)

    def encode(self, marked: Sequence[str]) -> list[list[int]]:
        """Tokens of the texts, without leading ones: a control token for each mark, and for nothing else.

        A word that a tokenizer has declared special is still a word: it may come from plain text.
        """
        texts = [self.plain(text) for text in marked]
        tokens = self.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []
        if not self.ids:
            return tokens
        watched = {number for name, number in self.ids.items() if not BYTE.fullmatch(name)}
        watched.discard(self.tokenizer.unk_token_id)  # unknown letters map to it
        names = look_for(tuple(self.ids))

        def as_written(text: str, ids: list[int]) -> bool:
            written = [number for number in map(int, self._marks.findall(text)) if number in watched]
            return not names.search(text) and [number for number in ids if number in watched] == written

        return [ids if as_written(text, ids) else self._encode_as_text(text) for text, ids in zip(marked, tokens, strict=True)]

    @property
    def _marks(self) -> re.Pattern[str]:
        return re.compile(f"{self.fence}(\\d+){self.fence}")

    def _encode_as_text(self, marked: str) -> list[int]:
        reader = respelled(self.tokenizer, self.fence)
        if reader is not None:
            copy, true_ids = reader
            return [true_ids.get(number, number) for number in copy.encode(marked, add_special_tokens=False).ids]
        ids: list[int] = []
        for place, part in enumerate(self._marks.split(marked)):  # texts and marks alternate
            text = {"add_special_tokens": False, "split_special_tokens": True}
            ids += [int(part)] if place % 2 else self.tokenizer(part, **text).input_ids
        return ids


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokenizer's special tokens and their ids.

    Added tokens that are not declared special are ordinary text (runs of spaces, words): a row may contain them.
    """
    added = tokenizer.added_tokens_decoder.items()
    return {token.content: number for number, token in added if token.special and not token.single_word}


@lru_cache(maxsize=8)
def look_for(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that finds the tokens in a text, the longest one first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


@lru_cache(maxsize=4)
def respelled(tokenizer: PreTrainedTokenizerBase, fence: str) -> tuple[Tokenizer, dict[int, int]] | None:
    """A copy of a fast tokenizer that knows its control tokens only by their marks, and the true ids of its added tokens, which
    may have other numbers in the copy; None for a Python tokenizer, which cannot be copied this way."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    spelling = {name: f"{fence}{number}{fence}" for name, number in control_tokens(tokenizer).items()}
    for token in state["added_tokens"]:
        token["content"] = spelling.get(token["content"], token["content"])
    _respell_words(state["model"], spelling)
    state |= {"post_processor": None, "truncation": None, "padding": None}
    copy = Tokenizer.from_str(json.dumps(state))
    ids = {copy.token_to_id(token["content"]): token["id"] for token in state["added_tokens"]}
    return copy, ids


def _respell_words(model: dict[str, Any], spelling: dict[str, str]) -> None:
    """Also rename them in the vocabulary, where some tokenizers look texts up, except those that other words are made of."""
    vocabulary = model["vocab"]
    pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model.get("merges") or [])
    needed = {word for left, right in pairs for word in (left, right, left + right)} | {model.get("unk_token")}
    kept = [name for name in spelling if name in needed or len(name) == 1 or BYTE.fullmatch(name)]
    change = {name: mark for name, mark in spelling.items() if name not in kept}
    if isinstance(vocabulary, list):  # Unigram's, with scores
        model["vocab"] = [[change.get(word, word), score] for word, score in vocabulary]
    else:
        model["vocab"] = {change.get(word, word): number for word, number in vocabulary.items()}
