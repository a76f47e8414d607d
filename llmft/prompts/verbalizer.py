"""Answers as tokens: which of the vocabulary stands for which label, and those of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.prompts.control import ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE_MARKS = " \u0120\u2581"
"""The space as a person, a byte-level BPE (Ġ) and SentencePiece (▁) write it in front of a word."""


def parse_words(target_tokens: str, num_labels: int, flag: str = "--target_tokens") -> tuple[str, ...]:
    """`"Yes,No"`, `"ĠYes,ĠNo"` and `"▁Yes,▁No"` alike -> `("Yes", "No")`, in label order.

    Raises:
        InputError: not one word a label, an empty word, or the same word twice.
    """
    words = tuple(word.strip(SPACE_MARKS) for word in target_tokens.split(",")) if num_labels else ()
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
    if control is None:
        control = ControlTokens.create(tokenizer, [query])
        query = control.mark(query)
    sequences: list[list[int]] = []
    texts = [space + control.mark(word) for word in words]
    for word, (sequence, tokens) in zip(words, _behind(control, [query] * len(words), texts), strict=True):
        if not sequence:
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
    asked = [(word, sequence, query) for word, sequence in zip(words, sequences, strict=True) for query in queries]
    texts = {word: space + control.mark(word) for word in words}
    answers = _behind(control, [query for *_, query in asked], [texts[word] for word, *_ in asked])
    for (word, sequence, query), (behind, tokens) in zip(asked, answers, strict=True):
        if behind != [*sequence]:
            alone, merged = (shown(control.tokenizer, ids) for ids in (sequence, tokens[-3:]))
            raise InputError(
                f"{flag}: {quote(word)} is {alone} behind one query, and merges with the end of another, "
                f"{quote(control.plain(query)[-20:])}, into {merged}; give another --label_delimiter, or end the pattern in "
                "other text"
            )


def answer_sequences(
    control: ControlTokens, queries: Sequence[str], answers: Sequence[str], idx: Sequence[object], flag: str, *, space: str
) -> list[list[int]]:
    """The tokens of each answer behind its query.

    Args:
        queries, answers: as marked by `control`, one answer for each query.
        idx: the rows' own, for messages.
        flag: the flag that queries end as they do by, and its value, for messages.
        space: what stands in front of an answer and belongs to it.

    Raises:
        InputError: an answer has no tokens, or merges with its query's end.
    """
    sequences = []
    pairs = _behind(control, queries, [space + answer for answer in answers])
    for query, answer, number, (sequence, tokens) in zip(queries, answers, idx, pairs, strict=True):
        if not answer.strip() or sequence == []:
            raise InputError(
                f"--answer_column: the answer of row {number}, {quote(answer)}, is no token for the tokenizer of "
                f"{control.tokenizer.name_or_path}; give it some text, or leave the row out"
            )
        if sequence is None:
            raise InputError(
                f"{flag}: the answer of row {number}, {quote(answer[:20])}, merges with the end of its query, "
                f"{quote(control.plain(query)[-20:])}, into {shown(control.tokenizer, _border(control, query, tokens))}; "
                "begin the answer in other text, or end the query otherwise (--label_delimiter, --pattern; without --chat)"
            )
        sequences.append(sequence)
    return sequences


def _behind(control: ControlTokens, queries: Sequence[str], texts: Sequence[str]) -> list[tuple[list[int] | None, list[int]]]:
    """For each query and the text behind it: the tokens that the text adds, None where it changes the query's own; and those of
    both together."""
    different = [*dict.fromkeys(queries)]
    heads = dict(zip(different, control.encode(different), strict=True))
    wholes = control.encode([query + text for query, text in zip(queries, texts, strict=True)])
    pairs = [(heads[query], whole) for query, whole in zip(queries, wholes, strict=True)]
    return [(whole[len(head) :] if whole[: len(head)] == head else None, whole) for head, whole in pairs]


def _border(control: ControlTokens, query: str, tokens: list[int]) -> list[int]:
    """The tokens around the place where a query meets what merges with it."""
    (head,) = control.encode([query])
    place = next((i for i, (left, right) in enumerate(zip(head, tokens, strict=False)) if left != right), len(head))
    return tokens[max(0, place - 2) : place + 2]


def shown(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Tokens as the vocabulary spells them, for people."""
    return " ".join(map(repr, tokenizer.convert_ids_to_tokens(list(tokens))))
