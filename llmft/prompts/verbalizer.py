"""The verbalizer: which token of the vocabulary stands for which label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.prompts.control import ControlTokens
from llmft.prompts.tokens import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE_MARKS = " \u0120\u2581"
"""The space as a person, a byte-level BPE (Ġ) and SentencePiece (▁) write it in front of a word."""


def parse_words(target_tokens: str, num_labels: int, flag: str = "--target_tokens") -> tuple[str, ...]:
    """`"Yes,No"`, `"ĠYes,ĠNo"` and `"▁Yes,▁No"` alike -> `("Yes", "No")`, in label order.

    Raises:
        InputError: not one word a label, an empty word, or the same word twice.
    """
    words = tuple(word.strip(SPACE_MARKS) for word in target_tokens.split(","))
    fault = None
    if len(words) != num_labels:
        fault = f"{len(words)} words for {num_labels} labels; give one a label, comma between"
    elif not all(words):
        fault = "one of the words is empty; give one a label, comma between"
    elif len(set(words)) < len(words):
        fault = "two labels have the same word; give each its own"
    if fault:
        raise InputError(f"{flag} {quote(target_tokens)}: {fault}")
    return words


def label_sequences(
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    words: tuple[str, ...],
    flag: str = "--target_tokens",
    *,
    several: bool,
    space: str = " ",
    control: ControlTokens | None = None,
) -> list[list[int]]:
    """The tokens that follow `query` for each label, in label order.

    Args:
        several: whether a label may be more than one token.
        space: what stands in front of a label's word and belongs to it.
        control: what the query is marked by; None for one whose control tokens are meant.

    Raises:
        InputError: a label's tokens cannot be separated from the query's or are unknown, one is several tokens and may not be, or
            the tokens of one begin those of another: its sequence could never be the less probable one.
    """
    head = token_ids(tokenizer, query, control)
    mark = control.mark if control else str
    sequences: list[list[int]] = []
    for word in words:
        tokens = token_ids(tokenizer, query + space + mark(word), control)
        sequence = tokens[len(head) :]
        if tokens[: len(head)] != head or not sequence:
            raise InputError(
                f"{flag} {quote(','.join(words))}: {quote(word)} merges with the end of the query into "
                f"{shown(tokenizer, tokens[-2:])} for the tokenizer of {tokenizer.name_or_path}; "
                "give another --label_delimiter (' ' is a space), or end the pattern otherwise"
            )
        known = tokenizer.unk_token_id not in sequence
        if not known or (len(sequence) > 1 and not several):
            pieces = shown(tokenizer, sequence)
            remedy = "choose another word, or add --multi_token_labels" if known else "choose another word"
            raise InputError(
                f"{flag} {quote(','.join(words))}: {quote(word)} is not one token behind a query but {pieces} "
                f"for the tokenizer of {tokenizer.name_or_path}; {remedy}"
            )
        sequences.append(sequence)
    for i, ids in enumerate(sequences):
        for other in sequences[:i] + sequences[i + 1 :]:
            if other[: len(ids)] == ids:
                raise InputError(
                    f"{flag} {quote(','.join(words))}: the tokens {ids} of {quote(words[i])} are, or begin, those of "
                    f"another word for the tokenizer of {tokenizer.name_or_path}; choose words that differ"
                )
    return sequences


def check_border(
    control: ControlTokens,
    queries: Sequence[str],
    words: tuple[str, ...],
    sequences: Sequence[Sequence[int]],
    flag: str = "--label_delimiter",
    *,
    space: str,
) -> None:
    """Check that every label has the same tokens behind each query, and leaves the query its own.

    Args:
        queries: as marked by `control`.
        sequences: what `label_sequences` gives behind one query.
        flag: the flag that queries end as they do by, and its value, for messages.
        space: what stands in front of a label's word.

    Raises:
        InputError: the tokens of a label and a query's end merge.
    """
    heads = control.encode(queries)
    for word, sequence in zip(words, sequences, strict=True):
        whole = control.encode([query + space + control.mark(word) for query in queries])
        for head, tokens, query in zip(heads, whole, queries, strict=True):
            if tokens != [*head, *sequence]:
                alone, merged = (shown(control.tokenizer, ids) for ids in (sequence, tokens[-3:]))
                raise InputError(
                    f"{flag}: {quote(word)} is {alone} behind one query, and merges with the end of another, "
                    f"{quote(control.plain(query)[-20:])}, into {merged}; give another --label_delimiter, or end the pattern in "
                    "other text"
                )


def shown(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Tokens as the vocabulary spells them, for people."""
    return " ".join(map(repr, tokenizer.convert_ids_to_tokens(list(tokens))))
