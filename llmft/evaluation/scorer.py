"""Scoring rows: their prompts go through a model, and its answers become columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmft.cost.flops import inference_flops
from llmft.cost.phases import Phase
from llmft.errors import InputError
from llmft.evaluation.scores import Scores
from llmft.models.load import window
from llmft.models.wrapping import bare_model, has_cartridge, virtual_tokens
from llmft.prompts.prompter import Prompter

if TYPE_CHECKING:
    import torch

    from llmft.evaluation.answer_cache import AnswerCache
    from llmft.evaluation.answers import Answers, Question
    from llmft.models.reading.batches import BatchSize
    from llmft.models.reading.continuations import Continued
    from llmft.tasks.schema import Row


@dataclass(frozen=True)
class Scorer:
    """One way of asking a model: by these prompts, for these answers.

    Attributes:
        batch_size: how many prompts go through the model together.
        cache: may hold answers of the model, whose weights must then stay as they are.
    """

    model: torch.nn.Module
    prompter: Prompter
    answers: Answers
    batch_size: BatchSize
    cache: AnswerCache | None = None

    @classmethod
    def create(
        cls,
        model: torch.nn.Module,
        prompter: Prompter,
        answers: type[Answers],
        sample: Row,
        batch_size: BatchSize,
        **options: Any,
    ) -> Scorer:
        """The scorer whose prompts fit the model.

        Args:
            answers: the kind of answers, made for the prompt of `sample` with these `options` (as `Labels.create`).

        Raises:
            InputError: the prompts and these answers do not go together.
        """
        prompter = fitted(prompter, model)
        made = answers.create(model, prompter, sample, **options)
        return cls(model, replace(prompter, behind=made.behind), made, batch_size)

    def with_model(self, model: torch.nn.Module) -> Scorer:
        """The same questions to another model, whose weights may change."""
        return replace(self, model=model, prompter=fitted(self.prompter, model), cache=None)

    def check_window(self, rows: Sequence[Row]) -> None:
        """Check early that the rows' prompts fit the model's window, and that answers can stand behind them.

        Raises:
            InputError: they do not.
        """
        self.answers.check(self.prompter, rows)
        self.prompter.check_window(rows)

    def score(self, rows: Sequence[Row], phase: Phase) -> Scores:
        """Ask about every row; what it cost is counted on `phase`.

        Raises:
            InputError: a prompt does not fit the model's window, or the model gives no numbers.
        """
        prompts, n = self.prompter.prompts(rows, extra=self.answers.content_free(self.prompter)), len(rows)
        arrays = self.read(self.answers.continued(prompts, rows), self.answers.question, phase, rows=n)
        self._check_numbers(rows, arrays)
        tokens = [len(prompts.prefix) + len(suffix) for suffix in prompts.suffixes[:n]]
        per_query = virtual_tokens(self.model) + float(np.mean(tokens))
        return Scores(self.answers.columns(rows, arrays), per_query, prompts.shortened)

    def read(self, prompts: Continued, question: Question, phase: Phase, *, rows: int) -> dict[str, np.ndarray]:
        """The model's answers to a question about each of the prompts, from the cache where it has them; costs are counted on
        `phase`.

        Args:
            rows: how many of the prompts are examples; those behind them are content-free queries.
        """
        from llmft.models.reading.reader import read_logits

        def compute() -> dict[str, np.ndarray]:
            kept = read_logits(self.model, prompts, question.keep, size=self.batch_size)
            phase.count(
                examples=sum(i < rows for i in kept.scored),
                tokens=kept.tokens,
                padding_tokens=kept.padding_tokens,
                flops=inference_flops(self.model, kept.tokens),
            )
            return question.answers(kept.arrays)

        return compute() if self.cache is None else self.cache.get(prompts.key | question.key, compute, phase)

    def _check_numbers(self, rows: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> None:
        """Check that the answers about the rows are numbers."""
        bad = np.zeros(len(rows), bool)
        for array in arrays.values():
            if array.dtype.kind == "f":
                bad |= np.isnan(array[: len(rows)]).reshape(len(rows), -1).any(axis=1)
        if bad.any():
            first, name = rows[int(bad.argmax())]["idx"], bare_model(self.model).name_or_path
            raise InputError(
                f"--model_name_or_path {name}: gives no numbers (NaN) for {bad.sum()} of {len(rows)} rows, the first being idx "
                f"{first}; its weights are damaged, or too large for the precision: try --torch_dtype float32"
            )


@dataclass(frozen=True)
class MeanScorer:
    """The mean over contexts of the distributions behind each: one scorer a context, all of one kind of answer."""

    scorers: tuple[Scorer, ...]

    @property
    def answers(self) -> Answers:
        """How the first context's answers are measured, and so the mean."""
        return self.scorers[0].answers

    def with_model(self, model: torch.nn.Module) -> MeanScorer:
        """The same questions to another model."""
        return MeanScorer(tuple(scorer.with_model(model) for scorer in self.scorers))

    def check_window(self, rows: Sequence[Row]) -> None:
        """As `Scorer.check_window`, behind every context."""
        for scorer in self.scorers:
            scorer.check_window(rows)

    def score(self, rows: Sequence[Row], phase: Phase) -> Scores:
        """As `Scorer.score`; a row is shortened as often as behind the context that leaves least room."""
        scores = [scorer.score(rows, phase) for scorer in self.scorers]
        if len(scores) == 1:
            return scores[0]
        tokens = float(np.mean([one.tokens_per_query for one in scores]))
        return Scores(self.answers.mean(scores), tokens, max(one.shortened for one in scores))


def fitted(prompter: Prompter, model: torch.nn.Module) -> Prompter:
    """The prompter with the numbers of a model."""
    virtual = max(prompter.reserved, virtual_tokens(model))
    return replace(prompter, window=window(model), virtual=virtual, opens=not has_cartridge(model))
