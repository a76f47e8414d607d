"""Scoring a split: rows -> prompts -> label scores, by one way of asking."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llmft.cost.flops import inference_flops
from llmft.cost.phases import Phase
from llmft.errors import InputError
from llmft.evaluation.labels import label_prior, renormalise
from llmft.models.load import window
from llmft.prompts.control import ControlTokens, control_tokens
from llmft.prompts.render import PromptFormat
from llmft.prompts.shorten import shorten
from llmft.prompts.tokens import TokenizedPrompts, check_window, token_ids, tokenize_prompts
from llmft.prompts.verbalizer import check_border, label_sequences, shown
from llmft.tasks.table import Row

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from llmft.distillation.targets import SupportQuestion
    from llmft.evaluation.answer_cache import AnswerCache
    from llmft.models.reading.batches import BatchSize
    from llmft.models.reading.continuations import Continued, LabelSequences


BORDER = 3
"""Tokens of a query's end that are shown."""


@dataclass(frozen=True)
class SplitScores:
    """What a model answered to N rows.

    Attributes:
        idx, labels: (N,) the rows' idx and gold labels.
        label_ids: the L label tokens.
        token_logprobs: (N, L) log-probabilities of the label tokens over the whole vocabulary.
        label_logprobs: (N, L) log-probabilities over the labels alone, calibrated if the asker calibrates.
        best_token: (N,) argmax over the whole vocabulary.
        tokens_per_query: mean tokens of a whole prompt, context and the model's soft prompt included.
        shortened: rows whose text was cut to fit --max_seq_length.
        several_tokens: whether a label is more than one token, so that the best first token says nothing of it.
        task_metrics: metrics by name or file (`llmft.evaluation.metrics`) that the set is measured by beside accuracy.
    """

    idx: np.ndarray
    labels: np.ndarray
    label_ids: list[int]
    token_logprobs: np.ndarray
    label_logprobs: np.ndarray
    best_token: np.ndarray
    tokens_per_query: float
    shortened: int = 0
    task_metrics: tuple[str, ...] = ()
    several_tokens: bool = False

    @property
    def predictions(self) -> np.ndarray:
        """(N,) the label with the highest score."""
        return self.label_logprobs.argmax(axis=1)

    def where(self, chosen: np.ndarray) -> SplitScores:
        """The same for the rows that the mask (N,) chooses."""
        arrays = ("idx", "labels", "token_logprobs", "label_logprobs", "best_token")
        return replace(self, **{name: getattr(self, name)[chosen] for name in arrays})


@dataclass(frozen=True)
class Asker:
    """One way of asking a model: the format, the demonstrations in front, the label tokens, calibration.

    `max_length`, if given, is the longest prompt in tokens: rows that make longer ones lose the end of their longer text.
    `label_sequences` are each label's tokens, nearly always one; a classifier's are 0 to L - 1, its whole vocabulary.
    `soft_prompt_tokens` virtual tokens are to be trained in front of the prompts: room is left for them. `cache` may hold
    answers of the model, whose weights must then stay as they are. `border` shows the tokens around the place where a query
    meets its label, for people.
    """

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    label_sequences: list[list[int]]
    calibrate: bool
    batch_size: BatchSize
    demonstrations: tuple[Row, ...] = ()
    max_length: int | None = None
    soft_prompt_tokens: int = 0
    virtual_flag: str = "--num_soft_prompt_tokens"
    cache: AnswerCache | None = None
    border: str = ""

    @classmethod
    def create(
        cls,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        *,
        sample: Row,
        demonstrations: Sequence[Row] = (),
        calibrate: bool = False,
        batch_size: BatchSize,
        max_length: int | None = None,
        soft_prompt_tokens: int = 0,
        virtual_flag: str = "--num_soft_prompt_tokens",
        several: bool = False,
    ) -> Asker:
        """An asker that puts `demonstrations` in front; its label tokens are those behind the query of `sample`.

        Args:
            virtual_flag: the flag that sets `soft_prompt_tokens`, for messages.
            several: whether a label may be more than one token.

        Raises:
            InputError: a label word is not one token there, or the model is a classifier of another number of labels.
        """
        from llmft.models.parts.head import classification_head

        head, border = classification_head(model), ""
        prompt_format = prompt_format.settled(control_tokens(tokenizer))
        if head is None:
            control = prompt_format.control(tokenizer, [sample])
            query = prompt_format.written_as(control.mark).query(sample).rstrip(" ")  # upstream's own may end in a space
            words, flag, space = prompt_format.words, prompt_format.words_flag, prompt_format.space
            labels = label_sequences(tokenizer, query, words, flag, several=several, space=space, control=control)
            behind = " / ".join(shown(tokenizer, tokens) for tokens in labels)
            border = f"...{shown(tokenizer, control.encode([query])[0][-BORDER:])} | {behind}"
        elif len(head.label_names) == len(prompt_format.words):
            labels = [[i] for i in range(len(head.label_names))]
        else:
            names = ", ".join(head.label_names)
            raise InputError(f"--model_name_or_path: a classifier of the labels {names}, the task has {len(prompt_format.words)}")
        return cls(
            model,
            tokenizer,
            prompt_format,
            labels,
            calibrate,
            batch_size,
            demonstrations=tuple(demonstrations),
            max_length=max_length,
            soft_prompt_tokens=soft_prompt_tokens,
            virtual_flag=virtual_flag,
            border=border,
        )

    @property
    def labels(self) -> LabelSequences:
        """The labels' tokens, as the question for their scores."""
        from llmft.models.reading.continuations import LabelSequences

        return LabelSequences.create(self.label_sequences)

    @property
    def label_ids(self) -> list[int]:
        """The (first) token of each label."""
        return [tokens[0] for tokens in self.label_sequences]

    def with_model(self, model: torch.nn.Module) -> Asker:
        """The same question to another model, whose weights may change."""
        return replace(self, model=model, cache=None)

    @property
    def context(self) -> str:
        """The text in front of every query; "" for none."""
        return self.prompt_format.context(self.demonstrations)

    @property
    def context_ids(self) -> list[int]:
        """Tokens of the context alone, as a text that the model reads from its start."""
        control, written = self._written(())
        return token_ids(self.tokenizer, written.context(self.demonstrations), control)

    def prompts(self, rows: Sequence[Row], extra: Sequence[Row] = ()) -> TokenizedPrompts:
        """Prompts of the rows, and of the `extra` rows behind them, which are never shortened, as tokens.

        Raises:
            InputError: one does not fit the model's window.
        """
        from llmft.models.wrapping import virtual_tokens

        prompts = self._tokenized([*rows, *extra])
        limit, place = window(self.model), "the model's window"
        if self.max_length is not None and (limit is None or self.max_length <= limit):
            limit, place = self.max_length, "--max_seq_length"
        soft = max(self.soft_prompt_tokens, virtual_tokens(self.model))
        behind = max(map(len, self.label_sequences)) - 1  # what the model reads of a label of several tokens
        if self.max_length is not None and prompts.longest > limit - soft - behind:
            prompts = self._shortened(rows, extra, prompts, limit - soft - behind)
        if limit is not None and soft and limit - soft < prompts.longest <= limit:
            raise InputError(
                f"{self.virtual_flag} {soft}: with them the longest prompt has {prompts.longest + soft} tokens, more than "
                f"{place} of {limit}; ask for fewer, or shorten --pattern"
            )

        def fitting_shots(index: int) -> int:
            row = rows[index] if index < len(rows) else extra[index - len(rows)]
            fits = range(len(self.demonstrations))
            count = bisect.bisect_right(fits, limit, key=lambda k: self._length(self.demonstrations[:k], row)) - 1
            labels = len(self.label_ids)
            return max(0, count - count % labels if len(self.demonstrations) % labels == 0 else count)

        if limit is not None and behind:
            limit, place = limit - behind, f"{place} leaves beside {behind} tokens of a label"
        check_window(prompts, limit, place, len(self.demonstrations), fitting_shots, self.prompt_format.front_flag)
        return prompts

    def _written(self, rows: Sequence[Row]) -> tuple[ControlTokens, PromptFormat]:
        """What prompts of these rows are read by, and the format that renders them for it."""
        control = self.prompt_format.control(self.tokenizer, [*rows, *self.demonstrations])
        return control, self.prompt_format.written_as(control.mark)

    def _tokenized(self, rows: Sequence[Row]) -> TokenizedPrompts:
        from llmft.models.wrapping import has_cartridge

        control, written = self._written(rows)
        context, opens = written.context(self.demonstrations), not has_cartridge(self.model)
        return tokenize_prompts(self.tokenizer, context, [*map(written.query, rows)], opens=opens, control=control)

    def _length(self, demonstrations: Sequence[Row], row: Row) -> int:
        control, written = self._written([row])
        return len(token_ids(self.tokenizer, written.context(demonstrations) + written.query(row), control))

    def _shortened(self, rows: Sequence[Row], extra: Sequence[Row], prompts: TokenizedPrompts, limit: int) -> TokenizedPrompts:
        """Prompts of which those over the limit have their texts cut; what cannot fit so stays as it is."""

        def length(row: Row) -> int:
            return self._length(self.demonstrations, row)

        long = [i for i in range(len(rows)) if len(prompts.whole(i)) > limit]
        cut = {i: shortened for i in long if (shortened := shorten(rows[i], length, limit)) is not None}
        fitted = self._tokenized([*(cut.get(i, row) for i, row in enumerate(rows)), *extra])
        return replace(fitted, shortened=len(cut))

    def check_window(self, rows: Sequence[Row]) -> None:
        """Check early, on the rows that are longest in characters, that prompts fit the model's window; and on all rows that
        labels without a space stand behind their queries as tokens of their own.

        Raises:
            InputError: one does not.
        """
        if not self.prompt_format.space and self.border:  # behind a space nothing merges
            shown_rows = [*rows, *self.demonstrations]
            control, written = self._written(shown_rows)
            words, flag = self.prompt_format.words, self.prompt_format.end_flag
            check_border(control, [*map(written.query, shown_rows)], words, self.label_sequences, flag, space="")
        self.prompts(sorted(rows, key=lambda row: len(self.prompt_format.query(row)))[-8:])

    def score(self, rows: Sequence[Row], phase: Phase) -> SplitScores:
        """Ask about every row; what it cost is counted on `phase`.

        Raises:
            InputError: a prompt does not fit the model's window.
        """
        from llmft.models.reading.continuations import Continued
        from llmft.models.wrapping import virtual_tokens

        blanks = self.prompt_format.content_free_rows() if self.calibrate else []
        prompts, n = self.prompts(rows, extra=blanks), len(rows)
        found = self.read(Continued.by_labels(prompts, self.labels), self.labels, phase, rows=n)
        self._check_numbers(rows, found["label_logprobs"][:n])
        prior = label_prior(found["label_logprobs"][n:]) if blanks else None
        tokens = [len(prompts.prefix) + len(suffix) for suffix in prompts.suffixes[:n]]
        return SplitScores(
            idx=np.array([row["idx"] for row in rows]),
            labels=np.array([row["label"] for row in rows]),
            label_ids=self.label_ids,
            token_logprobs=found["label_logprobs"][:n],
            label_logprobs=renormalise(found["label_logprobs"][:n], prior),
            best_token=found["best_token"][:n],
            tokens_per_query=virtual_tokens(self.model) + float(np.mean(tokens)),
            shortened=prompts.shortened,
            several_tokens=any(len(tokens) > 1 for tokens in self.label_sequences),
        )

    def _check_numbers(self, rows: Sequence[Row], logprobs: np.ndarray) -> None:
        broken = [str(row["idx"]) for row, bad in zip(rows, np.isnan(logprobs).any(axis=1), strict=True) if bad]
        if broken:
            from llmft.models.wrapping import bare_model

            name = bare_model(self.model).name_or_path
            raise InputError(
                f"--model_name_or_path {name}: gives no numbers (NaN) for {len(broken)} of {len(rows)} rows, the first being idx "
                f"{broken[0]}; its weights are damaged, or too large for the precision: try --torch_dtype float32"
            )

    def read(
        self, prompts: Continued, question: LabelSequences | SupportQuestion, phase: Phase, *, rows: int
    ) -> dict[str, np.ndarray]:
        """What the model answers to a question about each of some prompts, from the cache where it has it; costs are counted on
        `phase`.

        Args:
            rows: how many of the prompts are examples; those behind them are content-free queries.
        """
        from llmft.models.reading.reader import read_logits

        def compute() -> dict[str, np.ndarray]:
            found = read_logits(self.model, prompts, question.keep, size=self.batch_size)
            phase.count(
                examples=sum(i < rows for i in found.scored),
                tokens=found.tokens,
                padding_tokens=found.padding_tokens,
                flops=inference_flops(self.model, found.tokens),
            )
            return question.answers(found.arrays)

        return compute() if self.cache is None else self.cache.get(prompts.key | question.key, compute, phase)
