"""Prompts as tokens: what a set of prompts has in common in front is split off, to be encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text the model reads from its start: a beginning-of-text token where the tokenizer has one, no end token."""
    return leading_ids(tokenizer) + tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts in front of every text (a beginning-of-text token, or nothing)."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    full = tokenizer("a").input_ids
    return full[: next(i for i in range(len(full)) if full[i : i + len(plain)] == plain)]


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, context: str, queries: Sequence[str], *, opens: bool = True
) -> TokenizedPrompts:
    """Tokenize `context + query` for every query.

    Each prompt is tokenized as one text, since tokens may span the place where context and query meet; the shared prefix
    is then what all of them really have in common.

    Args:
        opens: whether the prompts stand at a text's start; behind a cartridge, which holds that start, they do not.

    Raises:
        InputError: a query is empty: nothing to answer, and no place for the label to stand behind.
    """
    if "" in queries:
        raise InputError("--pattern: a row with an empty text renders to nothing; put some text beside {text1} in the pattern")
    lead = leading_ids(tokenizer) if opens else []
    texts = [context + query for query in queries]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []
    prompts = [lead + tokens for tokens in ids]
    shared = _common_prefix_length(prompts)
    return TokenizedPrompts(prompts[0][:shared] if prompts else [], [tokens[shared:] for tokens in prompts])


def check_window(
    prompts: TokenizedPrompts,
    limit: int | None,
    place: str,
    shots: int,
    fitting_shots: Callable[[int], int],
    front: str = "--pattern",
) -> None:
    """Every prompt must fit.

    Args:
        limit: in tokens; None where there is none.
        place: what sets the limit, for the message.
        shots: demonstrations in front of each query.
        fitting_shots: index of a prompt -> how many of its demonstrations, from the first on, would fit.
        front: the flag that puts most in front of a query where there are no demonstrations.

    Raises:
        InputError: one does not fit; the message says by how many tokens, and what would fit.
    """
    if limit is None or prompts.longest <= limit:
        return
    flag, remedy = front, "shorten that, leave long rows out, or cut them with --max_seq_length"
    if shots:
        flag = f"--num_shots {shots}"
        fit = fitting_shots(max(range(len(prompts.suffixes)), key=lambda i: len(prompts.suffixes[i])))
        remedy = f"--num_shots {fit} would fit (the first {fit} of these)" if fit else "not even one of these would fit"
    raise InputError(
        f"{flag}: the longest prompt has {prompts.longest} tokens, {prompts.longest - limit} more than {place} "
        f"of {limit}; {remedy}"
    )


def _common_prefix_length(prompts: list[list[int]]) -> int:
    """Tokens in front that all prompts share, at least one being left to each."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)  # what the lexically first and last share, all share
    limit = min(len(min(prompts, key=len)) - 1, len(low), len(high))
    return next((i for i in range(limit) if low[i] != high[i]), limit)
