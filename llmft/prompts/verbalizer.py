"""Answers as tokens: those that represent labels, and those of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.prompts.control import ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE_MARKS = " \u0120\u2581"
"""The space before a word as written by people, by a byte-level BPE (Ġ) and by SentencePiece (▁)."""


def parse_words(target_tokens: str | Sequence[str], num_labels: int, flag: str = "--target_tokens") -> tuple[str, ...]:
    """`"Yes,No"`, `"ĠYes,ĠNo"` and `"▁Yes,▁No"` alike -> `("Yes", "No")`, in label order.

    Args:
        target_tokens: the value of a flag, or the words themselves, which may have commas in them.

    Raises:
        InputError: the numbers of words and labels differ, a word is empty, or two are the same.
    """
    written = target_tokens.split(",") if isinstance(target_tokens, str) else target_tokens
    words = tuple(word.strip(SPACE_MARKS) for word in written) if num_labels else ()
    fault = None
    if len(words) != num_labels:
        fault = f"{len(words)} words for {num_labels} labels; give one for each label (comma-separated)"
    elif not all(words):
        fault = "one of the words is empty; give one for each label (comma-separated)"
    elif len(set(words)) < len(words):
        fault = "two labels have the same word; give each its own word"
    if fault:
        raise InputError(f"{flag} {quote(','.join(written))}: {fault}")
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
        several: whether a label may have more than one token.
        space: the text before a label's word that belongs to it.
        control: the control tokens that the query was marked with; None for an unmarked query whose control tokens act as such.

    Raises:
        InputError: a label's tokens cannot be separated from the query's or are unknown, a label has several tokens though
            `several` is False, or its tokens are a prefix of another's: it could never be the less probable one.
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
                "use another --label_delimiter (' ' is a space), or end the pattern differently"
            )
        known = tokenizer.unk_token_id not in sequence
        if not known or (len(sequence) > 1 and not several):
            pieces = shown(tokenizer, sequence)
            remedy = "choose another word, or add --multi_token_labels" if known else "choose another word"
            raise InputError(
                f"{flag} {quote(','.join(words))}: {quote(word)} is not one token after a query but {pieces} "
                f"for the tokenizer of {tokenizer.name_or_path}; {remedy}"
            )
        sequences.append(sequence)
    for i, ids in enumerate(sequences):
        for other in sequences[:i] + sequences[i + 1 :]:
            if other[: len(ids)] == ids:
                raise InputError(
                    f"{flag} {quote(','.join(words))}: the tokens {ids} of {quote(words[i])} are, or begin, those of "
                    f"another word for the tokenizer of {tokenizer.name_or_path}; choose different words"
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
    """Check that every label has the same tokens after each query, and does not change the query's.

    Args:
        queries: as marked by `control`.
        sequences: the result of `label_sequences` for one query.
        flag: the flag that determines the end of queries, with its value, for messages.
        space: the text before a label's word.

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
                f"{flag}: {quote(word)} is {alone} after one query, but merges with the end of another, "
                f"{quote(control.plain(query)[-20:])}, into {merged}; use another --label_delimiter, or end the pattern "
                "differently"
            )


def answer_sequences(
    control: ControlTokens,
    queries: Sequence[str],
    answers: Sequence[str],
    idx: Sequence[object],
    flag: str,
    remedy: str,
    *,
    space: str,
) -> list[list[int]]:
    """The tokens of each answer after its query.

    Args:
        queries, answers: as marked by `control`, one answer for each query.
        idx: the idx of the rows, for messages.
        flag, remedy: the flag that determines the end of queries, with its value, and what to do if an answer merges with it, for
            messages.
        space: the text before an answer that belongs to it.

    Raises:
        InputError: an answer has no tokens, or merges with its query's end.
    """
    sequences = []
    pairs = _behind(control, queries, [space + answer for answer in answers])
    for query, answer, number, (sequence, tokens) in zip(queries, answers, idx, pairs, strict=True):
        if not answer.strip() or sequence == []:
            raise InputError(
                f"--answer_column: the answer of row {number}, {quote(answer)}, has no tokens for the tokenizer of "
                f"{control.tokenizer.name_or_path}; give it some text, or leave the row out"
            )
        if sequence is None:
            raise InputError(
                f"{flag}: the answer of row {number}, {quote(answer[:20])}, merges with the end of its query, "
                f"{quote(control.plain(query)[-20:])}, into {shown(control.tokenizer, _border(control, query, tokens))}; {remedy}"
            )
        sequences.append(sequence)
    return sequences


def _behind(control: ControlTokens, queries: Sequence[str], texts: Sequence[str]) -> list[tuple[list[int] | None, list[int]]]:
    """For each query and the text after it: the tokens that the text adds, None if it changes the query's own; and the tokens of
    both together."""
    different = [*dict.fromkeys(queries)]
    heads = dict(zip(different, control.encode(different), strict=True))
    wholes = control.encode([query + text for query, text in zip(queries, texts, strict=True)])
    pairs = [(heads[query], whole) for query, whole in zip(queries, wholes, strict=True)]
    return [(whole[len(head) :] if whole[: len(head)] == head else None, whole) for head, whole in pairs]


def _border(control: ControlTokens, query: str, tokens: list[int]) -> list[int]:
    """The tokens around the border where a query merges with the text after it."""
    (head,) = control.encode([query])
    place = next((i for i, (left, right) in enumerate(zip(head, tokens, strict=False)) if left != right), len(head))
    return tokens[max(0, place - 2) : place + 2]


def shown(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Tokens as spelled in the vocabulary, for messages."""
    return " ".join(map(repr, tokenizer.convert_ids_to_tokens(list(tokens))))
