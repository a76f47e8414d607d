"""The verbalizer: which token of the vocabulary stands for which label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmft.errors import InputError
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
    if len(words) != num_labels:
        raise InputError(f"{flag} {target_tokens!r}: {len(words)} words for {num_labels} labels; give one a label, comma between")
    if not all(words):
        raise InputError(f"{flag} {target_tokens!r}: one of the words is empty; give one a label, comma between")
    if len(set(words)) < len(words):
        raise InputError(f"{flag} {target_tokens!r}: two labels have the same word; give each its own")
    return words


def label_token_ids(
    tokenizer: PreTrainedTokenizerBase, query: str, words: tuple[str, ...], flag: str = "--target_tokens"
) -> list[int]:
    """The token that follows `query` for each label word, in label order.

    Args:
        query: a rendered query; the word is tokenized behind it, as it is in a demonstration.

    Raises:
        InputError: a word is not exactly one token behind the query, or two words share a token.
    """
    head = token_ids(tokenizer, query)
    ids: list[int] = []
    for word in words:
        tokens = token_ids(tokenizer, f"{query} {word}")
        if tokens[: len(head)] != head or len(tokens) != len(head) + 1 or tokens[-1] == tokenizer.unk_token_id:
            pieces = tokenizer.convert_ids_to_tokens(tokens[len(head) :] or tokens[-1:])
            raise InputError(
                f"{flag} {','.join(words)!r}: {word!r} is not one token behind a query but {' '.join(map(repr, pieces))} "
                f"for the tokenizer of {tokenizer.name_or_path}; choose another word"
            )
        ids.append(tokens[-1])
    if len(set(ids)) < len(ids):
        raise InputError(
            f"{flag} {','.join(words)!r}: two words are the same token {ids} for the tokenizer of {tokenizer.name_or_path}; "
            "choose words that differ"
        )
    return ids
