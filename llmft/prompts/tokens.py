"""Prompts as tokens: the common prefix of a set of prompts is split off, so that it is encoded only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.prompts.control import ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TAIL = 64
"""Minimum characters of a context that are tokenized with each query: far more than a tokenizer looks ahead."""

PLACES = 8
"""Maximum number of places to try splitting a context at."""

LOCAL = {"BPE", "WordLevel", "WordPiece"}
"""Types of tokenizers whose tokens depend only on nearby text. A sequence of tokens is BPE's for its text if each two neighbours
are BPE's for theirs; the other types split words at spaces first."""


@dataclass(frozen=True)
class TokenizedPrompts:
    """Prompt i is `prefix + suffixes[i]`; every suffix has at least one token."""

    prefix: list[int]
    suffixes: list[list[int]]
    shortened: int = 0
    """Number of rows whose text was cut to fit."""

    @property
    def longest(self) -> int:
        """Length of the longest prompt in tokens."""
        return len(self.prefix) + max(map(len, self.suffixes), default=0)

    def whole(self, index: int) -> list[int]:
        """All tokens of prompt `index`."""
        return self.prefix + self.suffixes[index]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, control: ControlTokens | None = None, *, opens: bool = True
) -> list[int]:
    """Tokens of a text that the model reads from its start, with a beginning-of-text token if the tokenizer has one.

    Args:
        control: the control tokens that the text was marked with; None for an unmarked text whose control tokens act as such.
        opens: whether to add the beginning-of-text token.
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
    """The tokens after those that open a text, unless the format has written the opening ones itself."""
    written = lead and tokens[: len(lead)] == lead and set(lead) <= set(control.ids.values())
    return tokens if written else lead + tokens


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts before every text (a beginning-of-text token, or nothing)."""
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

    A prompt's tokens are those of the joined text, since tokens may span the border of context and query; the shared prefix is
    what all prompts really have in common. Even so, a long context is tokenized only once, except for its end.

    Args:
        opens: whether to add the tokens that open a text; False after a cartridge, which includes a text's start, or if the
            context writes them itself.
        control: the control tokens that the texts were marked with; None for unmarked texts whose control tokens act as such.

    Raises:
        InputError: a query is empty, or a prompt has no tokens: there is nothing for the label to follow.
    """
    control, (context, *queries) = _marked(tokenizer, control, [context, *queries])
    front, ends = _parted(control, context, queries)
    lead = leading_ids(tokenizer) if opens else []
    if front:
        front = _opened(control, lead, front)
    else:  # a tokenizer may drop a query's spaces: its label then follows the lead
        ends = [_opened(control, lead, end) for end in ends]
    if "" in queries or not all(ends):
        raise InputError("--pattern: a row with an empty text renders to nothing; add some text to the pattern besides {text1}")
    shared = _common_prefix_length(ends)
    return TokenizedPrompts(front + ends[0][:shared] if ends else [], [tokens[shared:] for tokens in ends])


def _parted(control: ControlTokens, context: str, queries: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """The tokens that all of `context + query` begin with, possibly none, and the rest of each."""
    begin, rest, first = _parted_context(control, context, queries[0]) if queries else ([], context, [])
    ends = control.encode([rest + query for query in queries])
    if any(end[: len(first)] != first for end in ends):
        return [], control.encode([context + query for query in queries])
    return begin, ends


def _parted_context(control: ControlTokens, context: str, query: str) -> tuple[list[int], str, list[int]]:
    """Split the context where its beginning can be tokenized separately, leaving `TAIL` or more characters after it.

    Returns:
        The tokens of the context's beginning; the rest of its text; and tokens that this rest followed by a query must begin with
        for the two parts to give the tokens of the whole. No tokens and the whole context if it cannot be split.
    """
    model = getattr(getattr(control.tokenizer, "backend_tokenizer", None), "model", None)
    spaces = [i for i in range(1, len(context) - TAIL) if context[i].isspace()] if type(model).__name__ in LOCAL else []
    (whole,) = control.encode([context + query]) if spaces else ([],)
    for place in spaces[: -PLACES - 1 : -1]:
        (begin,) = control.encode([context[:place]])
        for rest in (context[place:], context[place + 1 :]):  # some tokenizers put a space before every text
            end, alone = control.encode([rest + query, rest])
            if begin + end == whole and len(alone) > 1:
                return begin, rest, alone[: len(alone) // 2]
    return [], context, []


def _common_prefix_length(prompts: list[list[int]]) -> int:
    """Length of the common prefix of all prompts, leaving at least one token to each."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)  # a prefix of the lexically first and last is shared by all
    limit = min(len(min(prompts, key=len)) - 1, len(low), len(high))
    return next((i for i in range(limit) if low[i] != high[i]), limit)
