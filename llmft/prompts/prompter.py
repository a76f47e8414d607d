"""Prompts as tokens: the context, then the query, within a model's limits, which are given as numbers."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.prompts.control import ControlTokens
from llmft.prompts.render import PromptFormat
from llmft.prompts.tokens import TokenizedPrompts, token_ids, tokenize_prompts
from llmft.prompts.verbalizer import answer_sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmft.prompts.demonstrations import Row

LONGEST = 8
"""Number of rows, the longest in characters, that are tokenized to check early whether all fit."""


@dataclass(frozen=True)
class Prompter:
    """One way of making prompts.

    Attributes:
        demonstrations: the rows that are shown before every query, in order.
        window: maximum tokens that the model reads; None for no limit.
        embeddings: number of tokens that the model has embeddings for; None for no limit.
        max_length: maximum tokens of a prompt, None for no limit; in longer ones the longer text of the row is cut at its end.
        reserved: virtual tokens that will precede every prompt once a model is trained, for which room is kept.
        virtual: room for virtual tokens: the reserved ones, or those of the current model if it has more.
        virtual_flag: the flag for their number, for messages; "" if the model came with them.
        model: the flag and name of the model, for messages.
        may_cut: whether `max_length` may be given, for messages.
        behind: maximum tokens of an answer that the model reads after a prompt.
        opens: whether prompts are at the start of a text; after a cartridge, which includes that start, they are not.
    """

    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    demonstrations: tuple[Row, ...] = ()
    window: int | None = None
    embeddings: int | None = None
    max_length: int | None = None
    reserved: int = 0
    virtual: int = 0
    virtual_flag: str = ""
    model: str = "model"
    may_cut: bool = False
    behind: int = 0
    opens: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_format", self.prompt_format.read_by(self.tokenizer))

    @property
    def context(self) -> str:
        """The text before every query; "" for none."""
        return self.prompt_format.context(self.demonstrations)

    @property
    def context_ids(self) -> list[int]:
        """Tokens of the context alone, at the start of a text."""
        control, written = self.written(())
        return token_ids(self.tokenizer, written.context(self.demonstrations), control, opens=not written.opens_itself)

    def written(self, rows: Sequence[Row]) -> tuple[ControlTokens, PromptFormat]:
        """The control tokens for prompts of these rows, and the format that renders the rows with them marked."""
        control = self.prompt_format.control(self.tokenizer, [*rows, *self.demonstrations])
        return control, self.prompt_format.written_as(control.mark)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer; the first one ends training answers. Empty if the tokenizer has none."""
        return self.prompt_format.end_ids(self.tokenizer)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer: what follows the answers shown in the context."""
        return self.prompt_format.stops if self.demonstrations else ()

    def answer_tokens(self, rows: Sequence[Row]) -> list[list[int]]:
        """The tokens of each row's answer after its query, including an end token if there is one: the row's `answer_ids` if it
        has them, else those of the text of its correct answer.

        Raises:
            InputError: an answer has no tokens, or merges with its query's end.
        """
        texts = [row for row in rows if row.get("answer_ids") is None]
        control, written = self.written(texts)
        queries, answers = [*map(written.query, texts)], [*map(written.answer, texts)]
        flag, remedy = self.prompt_format.end_flag, self.prompt_format.end_remedy
        idx = [row["idx"] for row in texts]
        made = iter(answer_sequences(control, queries, answers, idx, flag, remedy, space=written.space))
        end = [*self.end_ids[:1]]
        return [next(made) + end if row.get("answer_ids") is None else [*row["answer_ids"]] for row in rows]

    def prompts(self, rows: Sequence[Row], extra: Sequence[Row] = ()) -> TokenizedPrompts:
        """Prompts of the rows, and of the `extra` rows after them, which are never shortened.

        Raises:
            InputError: a prompt does not fit, or the model lacks the embedding of a token.
        """
        prompts = self.tokenized([*rows, *extra])
        self._check_embeddings(prompts)
        limit, place = self.window, "the model's window"
        if self.max_length is not None and (limit is None or self.max_length <= limit):
            limit, place = self.max_length, "--max_seq_length"
        if limit is None:
            return prompts
        room = limit - self.virtual - self.behind
        if self.max_length is not None and prompts.longest > room:
            prompts = self._shortened(rows, extra, prompts, room)
        no_room = limit - self.virtual < prompts.longest <= limit
        if no_room and not self.virtual_flag:
            raise InputError(
                f"{self.model}: its {self.virtual} virtual tokens leave {limit - self.virtual} of {place} of {limit} for a "
                f"prompt, and the longest has {prompts.longest} tokens; shorten the context or the questions"
            )
        if no_room:
            raise InputError(
                f"{self.virtual_flag} {self.virtual}: with them the longest prompt has {prompts.longest + self.virtual} tokens, "
                f"more than {place} of {limit}; use fewer, or shorten --pattern"
            )
        if self.behind >= limit - self.virtual:
            raise InputError(
                f"--max_new_tokens {self.behind}: leaves no room for a prompt in {place} of {limit} tokens; lower it"
            )
        over = prompts.longest + self.virtual + self.behind - limit
        if not self.prompt_format.words and 0 < over <= self.behind:
            raise InputError(
                f"--max_new_tokens {self.behind}: with an answer of this length the longest prompt has {limit + over} tokens, "
                f"{over} more than {place} of {limit}; lower it, or shorten the context"
            )
        if self.behind:
            limit, place = limit - self.behind, f"{place} minus {self.behind} tokens for the answer,"
        self._check(prompts, [*rows, *extra], limit, place)
        return prompts

    def check_window(self, rows: Sequence[Row]) -> None:
        """Check early that rows have the texts that prompts show, and that prompts fit, using the rows that are longest in
        characters.

        Raises:
            InputError: a row lacks a text, or a prompt does not fit.
        """
        self.prompt_format.check_texts([*rows, *self.demonstrations])
        self.prompts(sorted(rows, key=lambda row: len(self.prompt_format.query(row)))[-LONGEST:])

    def _check_embeddings(self, prompts: TokenizedPrompts) -> None:
        """Check that every token has an embedding: those that were added behind a vocabulary may not (`check_tokenizer`)."""
        if self.embeddings is None:
            return
        highest = max(max(tokens, default=0) for tokens in (prompts.prefix, *prompts.suffixes))
        lacking = f"{self.model}: has {self.embeddings} embeddings, none for"
        if highest >= self.embeddings:
            raise InputError(
                f"{lacking} {self.tokenizer.convert_ids_to_tokens(highest)} ({highest}) in a prompt; leave out --chat, "
                "whose template may write it, or name the model's own tokenizer with --tokenizer_name"
            )
        end = max(self.end_ids[:1], default=0)
        if end >= self.embeddings and not self.prompt_format.words:
            raise InputError(
                f"{lacking} {self.tokenizer.convert_ids_to_tokens(end)} ({end}), which ends answers; name the model's own "
                "tokenizer with --tokenizer_name, or one whose eos_token the model has"
            )

    def _check(self, prompts: TokenizedPrompts, rows: Sequence[Row], limit: int, place: str) -> None:
        """Check that the rows' prompts are within the limit, which `place` describes; the error says what would fit."""
        if prompts.longest <= limit:
            return
        cut = ", or cut them with --max_seq_length" if self.may_cut and self.prompt_format.words else ""
        flag, remedy = self.prompt_format.front_flag, f"shorten it, or leave long rows out{cut}"
        if self.prompt_format.document and not self.prompt_format.words:
            remedy = "cut the document with --chunk_tokens, shorten it, or leave long rows out"
        if self.demonstrations:
            flag = f"--num_shots {len(self.demonstrations)}"
            fit = self._fitting_shots(rows[max(range(len(rows)), key=lambda i: len(prompts.suffixes[i]))], limit)
            remedy = f"--num_shots {fit} would fit (the first {fit} of these)" if fit else "not even one of these would fit"
        raise InputError(
            f"{flag}: the longest prompt has {prompts.longest} tokens, {prompts.longest - limit} more than {place} of {limit}; "
            f"{remedy}"
        )

    def _fitting_shots(self, row: Row, limit: int) -> int:
        """How many demonstrations, from the first on, fit before a row; if they are balanced, the same number of each label."""
        shots, labels = len(self.demonstrations), len(self.prompt_format.words) or 1
        count = bisect.bisect_right(range(shots), limit, key=lambda k: self._length(self.demonstrations[:k], row)) - 1
        return max(0, count - count % labels if shots % labels == 0 else count)

    def tokenized(self, rows: Sequence[Row]) -> TokenizedPrompts:
        """Prompts of the rows, whatever their length.

        Raises:
            InputError: a chat template renders their turns differently after the context.
        """
        self.prompt_format.check_histories(self.demonstrations, rows)
        control, written = self.written(rows)
        context, opens = written.context(self.demonstrations), self.opens and not written.opens_itself
        if not self.opens and context == written.opening:
            context = ""
        return tokenize_prompts(self.tokenizer, context, [*map(written.query, rows)], opens=opens, control=control)

    def _length(self, demonstrations: Sequence[Row], row: Row) -> int:
        control, written = self.written([row])
        text = written.context(demonstrations) + written.query(row)
        return len(token_ids(self.tokenizer, text, control, opens=not written.opens_itself))

    def _shortened(self, rows: Sequence[Row], extra: Sequence[Row], prompts: TokenizedPrompts, limit: int) -> TokenizedPrompts:
        """Prompts with the texts of those over the limit cut; prompts that cannot be made to fit stay unchanged."""
        length = partial(self._length, self.demonstrations)
        long = [i for i in range(len(rows)) if len(prompts.whole(i)) > limit]
        cut = {i: row for i in long if (row := shorten(rows[i], length, limit)) is not None}
        fitted = self.tokenized([*(cut.get(i, row) for i, row in enumerate(rows)), *extra])
        return replace(fitted, shortened=len(cut))


def shorten(row: Row, length: Callable[[Row], int], limit: int) -> Row | None:
    """The row with its longer text cut at the end until `length(row) <= limit`, and no further; None if that is impossible.

    Args:
        length: function that returns the tokens of a row's whole prompt.
        limit: maximum number of tokens.
    """
    while length(row) > limit:
        field = max(("text1", "text2"), key=lambda name: len(row[name] or ""))
        text = row[field] or ""
        if not text:
            return None
        kept, too_long = 0, len(text)  # characters; the kept part fits or is empty
        while too_long - kept > 1:
            middle = (kept + too_long) // 2
            if length({**row, field: text[:middle].rstrip()}) <= limit:
                kept = middle
            else:
                too_long = middle
        row = {**row, field: text[:kept].rstrip()}
    return row
