"""Scoring rows: a model reads their prompts, and its answers become columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmft.cost.flops import inference_flops
from llmft.cost.phases import Phase
from llmft.errors import InputError
from llmft.evaluation.scores import Scores
from llmft.models.load import vocabulary_size, window
from llmft.models.wrapping import bare_model, has_cartridge, virtual_tokens
from llmft.prompts.prompter import Prompter
from llmft.tasks.texts import with_written

if TYPE_CHECKING:
    import torch

    from llmft.evaluation.answer_cache import AnswerCache
    from llmft.evaluation.answers import Answers, Question, Reference
    from llmft.models.reading.batches import BatchSize
    from llmft.models.reading.continuations import Continued
    from llmft.models.reading.generation import Written
    from llmft.models.reading.shared_prefix import Kept, OpenPrefix
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.schema import Row


@dataclass(frozen=True)
class Scorer:
    """One way of asking a model: with these prompts, for these answers.

    Attributes:
        batch_size: how many prompts go through the model together.
        cache: may hold answers of the model, whose weights must then not change.
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
    ) -> Self:
        """The scorer whose prompts fit the model.

        Args:
            answers: the kind of answers, made for the prompt of `sample` with these `options` (as `Labels.create`).

        Raises:
            InputError: the prompts and these answers do not fit together.
        """
        prompter = fitted(prompter, model)
        made = answers.create(model, prompter, sample, **options)
        return cls(model, replace(prompter, behind=made.behind), made, batch_size)

    def with_model(self, model: torch.nn.Module) -> Scorer:
        """The same questions for another model, whose weights may change."""
        return replace(self, model=model, prompter=fitted(self.prompter, model), cache=None)

    def generating(self, **settings: Any) -> Scorer:
        """The same scorer with other settings of `Generation`; for text answers."""
        return replace(self, answers=replace(self.answers, generation=replace(self.answers.generation, **settings)))

    def check_window(self, rows: Sequence[Row]) -> None:
        """Check early that the rows' prompts fit the model's window, and that answers can follow them.

        Raises:
            InputError: they do not.
        """
        self.answers.check(self.prompter, rows)
        self.prompter.check_window(rows)

    def score(self, rows: Sequence[Row], phase: Phase, reference: Reference | None = None) -> Scores:
        """Ask about every row; the costs go to `phase`.

        Args:
            reference: what answers are compared with in addition to the rows' own; None for nothing, or if that needs no model.

        Raises:
            InputError: a prompt does not fit the model's window, or the model gives no numbers.
        """
        prompts, n = self.prompter.prompts(rows, extra=self.answers.content_free(self.prompter)), len(rows)
        with self.asking(prompts.prefix, phase) as asking:
            arrays = self.answers.ask(asking, prompts, rows, reference)
        with np.errstate(invalid="ignore"):
            columns = self.answers.columns(rows, arrays)
        self._check_numbers(rows, columns)
        tokens = [len(prompts.prefix) + len(suffix) for suffix in prompts.suffixes[:n]]
        per_query = virtual_tokens(self.model) + float(np.mean(tokens))
        return Scores(columns, per_query, prompts.shortened)

    def answered(self, rows: Sequence[Row], phase: Phase, *, counted: bool = True) -> list[Row]:
        """The rows with the tokens of that the model writes, `answer_ids`; for kinds of answers that are generated.

        Args:
            counted: whether costs count the rows as examples.
        """
        prompts = self.prompter.prompts(rows)
        with self.asking(prompts.prefix, phase) as asking:
            written = asking.write(prompts, rows=len(rows) if counted else 0)
        return [*map(with_written, rows, written)]

    def read(self, prompts: Continued, question: Question, phase: Phase, *, rows: int) -> dict[str, np.ndarray]:
        """As `PrefixAsking.read`, for these prompts only."""
        with self.asking(prompts.prefix, phase) as asking:
            return asking.read(prompts, question, rows=rows)

    @contextmanager
    def asking(self, prefix: list[int], phase: Phase) -> Iterator[PrefixAsking]:
        """Context manager: the model can be asked several things after a prefix, which it reads once."""
        from llmft.models.reading.shared_prefix import open_prefix

        with open_prefix(self.model, prefix, self.batch_size) as behind:
            yield PrefixAsking(self, behind, phase)

    def _check_numbers(self, rows: Sequence[Row], columns: Mapping[str, np.ndarray]) -> None:
        """Check that the rows' columns are not NaN."""
        bad = np.zeros(len(rows), bool)
        for column in columns.values():
            if column.dtype.kind == "f":
                bad |= np.isnan(column).reshape(len(rows), -1).any(axis=1)
        if bad.any():
            first, name = rows[int(bad.argmax())]["idx"], bare_model(self.model).name_or_path
            raise InputError(
                f"--model_name_or_path {name}: gives no numbers (NaN) for {bad.sum()} of {len(rows)} rows, the first being idx "
                f"{first}; its weights are damaged, or too large for the precision: try --torch_dtype float32"
            )


@dataclass(frozen=True)
class PrefixAsking:
    """Asks after one prefix. The model reads it once, and only if the cache lacks an answer; costs go to `phase`."""

    scorer: Scorer
    behind: OpenPrefix
    phase: Phase

    def read(self, prompts: Continued, question: Question, *, rows: int) -> dict[str, np.ndarray]:
        """The model's answers to a question about each of the prompts.

        Args:
            rows: how many of the prompts are examples; those after them are content-free queries.
        """

        def compute() -> dict[str, np.ndarray]:
            kept = self.behind.read(prompts, question.keep)
            self._count(kept, sum(i < rows for i in kept.scored))
            return question.answers(kept.arrays)

        return self._cached(lambda: prompts.key | question.key, compute)

    def write(self, prompts: TokenizedPrompts, *, rows: int = 0) -> list[list[int]]:
        """The tokens that the model writes after each of the prompts; the first `rows` of these count as examples."""
        from llmft.models.reading.continuations import Continued

        generation, tokenizer = self.scorer.answers.generation, self.scorer.prompter.tokenizer

        def compute() -> dict[str, np.ndarray]:
            written = self.behind.generate(prompts, generation, tokenizer)
            self._count(written, sum(i < rows for i in written.scored))
            return {"tokens": np.array([*chain(*written.ids)], int), "lengths": np.array([*map(len, written.ids)], int)}

        asked = Continued(prompts.prefix, prompts.suffixes, [1] * len(prompts.suffixes), [])
        arrays = self._cached(lambda: asked.key | {"generation": generation.key}, compute)
        return [part.tolist() for part in np.split(arrays["tokens"], arrays["lengths"].cumsum()[:-1])]

    @contextmanager
    def aside(self) -> Iterator[Self]:
        """Context: the same, for what judges answers but is no part of what a query costs."""
        with self.phase.beside("reference") as phase:
            yield replace(self, phase=phase)

    def _cached(self, key: Callable[[], dict[str, Any]], compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        cache = self.scorer.cache
        return compute() if cache is None else cache.get(key(), compute, self.phase)

    def _count(self, work: Kept | Written, examples: int) -> None:
        flops = inference_flops(self.scorer.model, work.tokens)
        self.phase.count(examples=examples, tokens=work.tokens, padding_tokens=work.padding_tokens, flops=flops)


@dataclass(frozen=True)
class MeanScorer:
    """The mean over contexts of the distributions after each: one scorer per context, all for the same kind of answers."""

    scorers: tuple[Scorer, ...]

    @property
    def answers(self) -> Answers:
        """The first context's kind of answers, which also measures the mean."""
        return self.scorers[0].answers

    @property
    def first(self) -> Scorer:
        """The scorer of the first context."""
        return self.scorers[0]

    def with_model(self, model: torch.nn.Module) -> Self:
        """The same questions for another model."""
        return replace(self, scorers=tuple(scorer.with_model(model) for scorer in self.scorers))

    def check_window(self, rows: Sequence[Row]) -> None:
        """As `Scorer.check_window`, for every context that a row is asked after."""
        for scorer, places in self.parts(rows):
            scorer.check_window([rows[place] for place in places])

    def answered(self, rows: Sequence[Row], phase: Phase) -> list[Row]:
        """As `Scorer.answered`, after the only context, since texts have no mean."""
        (scorer,) = self.scorers
        return scorer.answered(rows, phase)

    def context_of(self, rows: Sequence[Row]) -> np.ndarray | None:
        """(N,) the context that each row is asked after; None for all."""
        return None

    def parts(self, rows: Sequence[Row]) -> Iterator[tuple[Scorer, np.ndarray]]:
        """Each scorer, and the indices of its rows: all of them."""
        for scorer in self.scorers:
            yield scorer, np.arange(len(rows))

    def score(self, rows: Sequence[Row], phase: Phase, reference: Reference | None = None) -> Scores:
        """As `Scorer.score`; `shortened` is that of the context that leaves the least room."""
        scores = [scorer.score(rows, phase, reference) for scorer in self.scorers]
        if len(scores) == 1:
            return scores[0]
        tokens = float(np.mean([one.tokens_per_query for one in scores]))
        return Scores(self.answers.mean(scores), tokens, max(one.shortened for one in scores))


@dataclass(frozen=True)
class DocumentScorer(MeanScorer):
    """Each row is asked after the document that it names: one scorer per document, all for the same kind of answers.

    Attributes:
        documents: the name of each scorer's document.
    """

    documents: tuple[str, ...] = ()

    @property
    def first(self) -> Scorer:
        """The scorer of the first document by name, whatever the order of the rows."""
        return self.scorers[self.documents.index(min(self.documents))]

    def context_of(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) the index of each row's document.

        Raises:
            InputError: a row has none.
        """
        places = {name: place for place, name in enumerate(self.documents)}
        for row in rows:
            if row.get("document") not in places:
                raise InputError(f"--context document: row {row['idx']} has none of the documents that are asked about")
        return np.array([places[row["document"]] for row in rows], int)

    def answered(self, rows: Sequence[Row], phase: Phase) -> list[Row]:
        """As `Scorer.answered`, each row after its document."""
        answered: list[Row] = [*rows]
        for scorer, places in self.parts(rows):
            for place, row in zip(places, scorer.answered([rows[place] for place in places], phase), strict=True):
                answered[place] = row
        return answered

    def score(self, rows: Sequence[Row], phase: Phase, reference: Reference | None = None) -> Scores:
        """As `Scorer.score`, each row after its document; in the order of the rows."""
        parts = [*self.parts(rows)]
        scores = [
            scorer.score([rows[place] for place in places], phase, None if reference is None else reference.of(places))
            for scorer, places in parts
        ]
        order = np.argsort(np.concatenate([places for _, places in parts]), kind="stable")
        columns = {name: np.concatenate([one[name] for one in scores])[order] for name in scores[0].columns}
        tokens = sum(one.tokens_per_query * len(one) for one in scores) / len(rows)
        return Scores(columns, tokens, sum(one.shortened for one in scores))

    def parts(self, rows: Sequence[Row]) -> Iterator[tuple[Scorer, np.ndarray]]:
        """The scorer of each document that rows name, and the indices of those rows."""
        contexts = self.context_of(rows)
        for number in np.unique(contexts):
            yield self.scorers[number], np.flatnonzero(contexts == number)


def fitted(prompter: Prompter, model: torch.nn.Module) -> Prompter:
    """The prompter with the sizes of a model."""
    virtual = max(prompter.reserved, virtual_tokens(model))
    sizes = {"window": window(model), "embeddings": vocabulary_size(model), "virtual": virtual}
    return replace(prompter, **sizes, opens=not has_cartridge(model))
