"""Prompts as tokens: what a set of prompts has in common in front is split off, to be encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.prompts.control import ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TAIL = 64
"""Characters of a context, at least, that are tokenized with each query: far more than a tokenizer looks ahead."""

PLACES = 8
"""Places where a context may be parted that are tried, at most."""

LOCAL = {"BPE", "WordLevel", "WordPiece"}
"""Kinds of tokenizers whose tokens depend on text nearby alone. A row of tokens is BPE's of its text if each two neighbours are
of theirs; the others part words at spaces first."""


@dataclass(frozen=True)
class TokenizedPrompts:
    """Prompt i is `prefix + suffixes[i]`; every suffix has at least one token."""

    prefix: list[int]
    suffixes: list[list[int]]
    shortened: int = 0
    """Rows whose text was cut to fit."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return len(self.prefix) + max(map(len, self.suffixes), default=0)

    def whole(self, index: int) -> list[int]:
        """All tokens of prompt `index`."""
        return self.prefix + self.suffixes[index]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, control: ControlTokens | None = None, *, opens: bool = True
) -> list[int]:
    """Tokens of a text the model reads from its start: a beginning-of-text token where the tokenizer has one, no end token.

    Args:
        control: what the text is marked by; None for a text whose control tokens are meant.
        opens: whether the beginning-of-text token is added; else the text has what it needs.
    """
    control, (text,) = _marked(tokenizer, control, [text])
    return _opened(control, leading_ids(tokenizer) if opens else [], control.encode([text])[0])


def _marked(
    tokenizer: PreTrainedTokenizerBase, control: ControlTokens | None, texts: list[str]
) -> tuple[ControlTokens, list[str]]:
    if control is not None:
        return control, texts
    control = ControlTokens.create(tokenizer, texts)
    return control, [control.mark(text) for text in texts]


def _opened(control: ControlTokens, lead: list[int], tokens: list[int]) -> list[int]:
    """The tokens behind those that open a text, unless a format has written these there itself."""
    written = lead and tokens[: len(lead)] == lead and set(lead) <= set(control.ids.values())
    return tokens if written else lead + tokens


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts in front of every text (a beginning-of-text token, or nothing)."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    full = tokenizer("a").input_ids
    return full[: next(i for i in range(len(full)) if full[i : i + len(plain)] == plain)]


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    queries: Sequence[str],
    *,
    opens: bool = True,
    control: ControlTokens | None = None,
) -> TokenizedPrompts:
    """Tokenize `context + query` for every query.

    A prompt's tokens are those of the one text, since tokens may span the place where context and query meet; the shared prefix
    is then what all of them really have in common. A long context is nevertheless tokenized once, but for its end.

    Args:
        opens: whether the tokens that open a text are added; not behind a cartridge, which holds a text's start, or where the
            context writes them itself.
        control: what the texts are marked by; None for texts whose control tokens are meant.

    Raises:
        InputError: a query is empty, or a prompt has no tokens: nothing to answer, and no place for the label to stand behind.
    """
    control, (context, *queries) = _marked(tokenizer, control, [context, *queries])
    front, ends = _parted(control, context, queries)
    lead = leading_ids(tokenizer) if opens else []
    if front:
        front = _opened(control, lead, front)
    else:  # a tokenizer may leave nothing of a query's spaces: its label then stands behind the lead
        ends = [_opened(control, lead, end) for end in ends]
    if "" in queries or not all(ends):
        raise InputError("--pattern: a row with an empty text renders to nothing; put some text beside {text1} in the pattern")
    shared = _common_prefix_length(ends)
    return TokenizedPrompts(front + ends[0][:shared] if ends else [], [tokens[shared:] for tokens in ends])


def _parted(control: ControlTokens, context: str, queries: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Tokens that all of `context + query` begin with, possibly none, and those that each goes on with."""
    begin, rest, first = _parted_context(control, context, queries[0]) if queries else ([], context, [])
    ends = control.encode([rest + query for query in queries])
    if any(end[: len(first)] != first for end in ends):
        return [], control.encode([context + query for query in queries])
    return begin, ends


def _parted_context(control: ControlTokens, context: str, query: str) -> tuple[list[int], str, list[int]]:
    """Part the context where it may be tokenized apart: what stands behind, `TAIL` or more, sets the tokens in front.

    Returns:
        Tokens of the context's beginning; the rest of its text; and tokens that this rest, then a query, must begin with for the
        two to be the tokens of the whole. No tokens and the whole context where it cannot be parted.
    """
    model = getattr(getattr(control.tokenizer, "backend_tokenizer", None), "model", None)
    spaces = [i for i in range(1, len(context) - TAIL) if context[i].isspace()] if type(model).__name__ in LOCAL else []
    (whole,) = control.encode([context + query]) if spaces else ([],)
    for place in spaces[: -PLACES - 1 : -1]:
        (begin,) = control.encode([context[:place]])
        for rest in (context[place:], context[place + 1 :]):  # some tokenizers put a space in front of every text themselves
            end, alone = control.encode([rest + query, rest])
            if begin + end == whole and len(alone) > 1:
                return begin, rest, alone[: len(alone) // 2]
    return [], context, []


def _common_prefix_length(prompts: list[list[int]]) -> int:
    """Tokens in front that all prompts share, at least one being left to each."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)  # what the lexically first and last share, all share
    limit = min(len(min(prompts, key=len)) - 1, len(low), len(high))
    return next((i for i in range(limit) if low[i] != high[i]), limit)
