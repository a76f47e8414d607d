"""Prompts as tokens: the context, then the query, within the room that a model leaves. Of the model it is told numbers alone."""

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
"""Rows, the longest in characters, that are tokenized to see early whether all fit."""


@dataclass(frozen=True)
class Prompter:
    """One way of making prompts.

    Attributes:
        demonstrations: the rows that are shown in front of every query, in order.
        window: tokens that the model reads at most; None for any number.
        max_length: tokens that a prompt may have, None for any number; rows of longer ones lose the end of their longer text.
        reserved: virtual tokens that will stand in front of every prompt once a model is trained, for which room is kept.
        virtual: room that virtual tokens take: what is reserved, or what the model of today has if that is more.
        virtual_flag: the flag that says how many, for messages.
        behind: tokens of an answer that the model reads behind a prompt, at most.
        opens: whether prompts stand at a text's start; behind a cartridge, which holds that start, they do not.
    """

    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    demonstrations: tuple[Row, ...] = ()
    window: int | None = None
    max_length: int | None = None
    reserved: int = 0
    virtual: int = 0
    virtual_flag: str = "--num_soft_prompt_tokens"
    behind: int = 0
    opens: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_format", self.prompt_format.read_by(self.tokenizer))

    @property
    def context(self) -> str:
        """The text in front of every query; "" for none."""
        return self.prompt_format.context(self.demonstrations)

    @property
    def context_ids(self) -> list[int]:
        """Tokens of the context alone, as a text that the model reads from its start."""
        control, written = self.written(())
        return token_ids(self.tokenizer, written.context(self.demonstrations), control, opens=not written.opens_itself)

    def written(self, rows: Sequence[Row]) -> tuple[ControlTokens, PromptFormat]:
        """What prompts of these rows are read by, and the format that renders them for it."""
        control = self.prompt_format.control(self.tokenizer, [*rows, *self.demonstrations])
        return control, self.prompt_format.written_as(control.mark)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer, the first of which ends those that are learned; none where the tokenizer has none."""
        return self.prompt_format.end_ids(self.tokenizer)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer: what stands behind the answers that the context shows."""
        return self.prompt_format.stops if self.demonstrations else ()

    def answer_tokens(self, rows: Sequence[Row]) -> list[list[int]]:
        """The tokens of each row's answer as they follow its query, a token that ends it included if there is any: `answer_ids`
        of a row that has them, else those of its right answer's text.

        Raises:
            InputError: an answer has no tokens, or merges with its query's end.
        """
        texts = [row for row in rows if row.get("answer_ids") is None]
        control, written = self.written(texts)
        queries, answers = [*map(written.query, texts)], [*map(written.answer, texts)]
        flag, idx = self.prompt_format.end_flag, [row["idx"] for row in texts]
        made = iter(answer_sequences(control, queries, answers, idx, flag, space=written.space))
        end = [*self.end_ids[:1]]
        return [next(made) + end if row.get("answer_ids") is None else [*row["answer_ids"]] for row in rows]

    def prompts(self, rows: Sequence[Row], extra: Sequence[Row] = ()) -> TokenizedPrompts:
        """Prompts of the rows, and of the `extra` rows behind them, which are never shortened.

        Raises:
            InputError: one does not fit.
        """
        prompts = self.tokenized([*rows, *extra])
        limit, place = self.window, "the model's window"
        if self.max_length is not None and (limit is None or self.max_length <= limit):
            limit, place = self.max_length, "--max_seq_length"
        if limit is None:
            return prompts
        room = limit - self.virtual - self.behind
        if self.max_length is not None and prompts.longest > room:
            prompts = self._shortened(rows, extra, prompts, room)
        if self.virtual and limit - self.virtual < prompts.longest <= limit:
            raise InputError(
                f"{self.virtual_flag} {self.virtual}: with them the longest prompt has {prompts.longest + self.virtual} tokens, "
                f"more than {place} of {limit}; ask for fewer, or shorten --pattern"
            )
        if self.behind >= limit - self.virtual:
            raise InputError(
                f"--max_new_tokens {self.behind}: an answer of so many tokens leaves no room for a prompt in {place} of {limit}; "
                "give less"
            )
        over = prompts.longest + self.virtual + self.behind - limit
        if not self.prompt_format.words and 0 < over <= self.behind:
            raise InputError(
                f"--max_new_tokens {self.behind}: with an answer of so many the longest prompt has {limit + over} tokens, {over} "
                f"more than {place} of {limit}; give less, or shorten the context"
            )
        if self.behind:
            limit, place = limit - self.behind, f"{place} leaves beside {self.behind} tokens of an answer"
        self._check(prompts, [*rows, *extra], limit, place)
        return prompts

    def check_window(self, rows: Sequence[Row]) -> None:
        """Check early that prompts fit, on the rows that are longest in characters.

        Raises:
            InputError: one does not.
        """
        self.prompts(sorted(rows, key=lambda row: len(self.prompt_format.query(row)))[-LONGEST:])

    def _check(self, prompts: TokenizedPrompts, rows: Sequence[Row], limit: int, place: str) -> None:
        """Check that the rows' prompts are within the limit, which `place` sets; the error says what would fit."""
        if prompts.longest <= limit:
            return
        cut = ", or cut them with --max_seq_length" if self.prompt_format.words else ""
        flag, remedy = self.prompt_format.front_flag, f"shorten that, or leave long rows out{cut}"
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
        """How many demonstrations, from the first on, fit in front of a row; as many of each label, if all are."""
        shots, labels = len(self.demonstrations), len(self.prompt_format.words) or 1
        count = bisect.bisect_right(range(shots), limit, key=lambda k: self._length(self.demonstrations[:k], row)) - 1
        return max(0, count - count % labels if shots % labels == 0 else count)

    def tokenized(self, rows: Sequence[Row]) -> TokenizedPrompts:
        """Prompts of the rows, whatever their length.

        Raises:
            InputError: a chat template writes their turns otherwise behind the context.
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
        """Prompts of which those over the limit have their texts cut; what cannot fit so stays as it is."""
        length = partial(self._length, self.demonstrations)
        long = [i for i in range(len(rows)) if len(prompts.whole(i)) > limit]
        cut = {i: row for i in long if (row := shorten(rows[i], length, limit)) is not None}
        fitted = self.tokenized([*(cut.get(i, row) for i, row in enumerate(rows)), *extra])
        return replace(fitted, shortened=len(cut))


def shorten(row: Row, length: Callable[[Row], int], limit: int) -> Row | None:
    """The row with its longer text cut at the end, just so far that `length(row) <= limit`; None where that cannot be.

    Args:
        length: tokens of the whole prompt made of a row.
        limit: tokens there is room for.
    """
    while length(row) > limit:
        field = max(("text1", "text2"), key=lambda name: len(row[name] or ""))
        text = row[field] or ""
        if not text:
            return None
        kept, too_long = 0, len(text)  # characters; what is kept fits or is nothing
        while too_long - kept > 1:
            middle = (kept + too_long) // 2
            if length({**row, field: text[:middle].rstrip()}) <= limit:
                kept = middle
            else:
                too_long = middle
        row = {**row, field: text[:kept].rstrip()}
    return row
