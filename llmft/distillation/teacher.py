"""The frozen teacher: reads context and query. Before training once for every query, or online at every step.

The teacher is the student's own start unless it is another model. It runs without gradients and without dropout. In the first
way only its answers are left when training starts: no second copy in memory and nothing that training could touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch

from llmft.arguments.objective import Objective
from llmft.cost.flops import inference_flops
from llmft.cost.phases import Phase
from llmft.distillation.targets import SupportQuestion, Targets, mean_logprobs, sampled_targets, support_targets
from llmft.evaluation.scorer import Scorer
from llmft.models.reading.continuations import Continued
from llmft.models.reading.reader import PrefixReader, reading
from llmft.models.wrapping import on_device
from llmft.tasks.schema import Row

CHUNK = 256
"""Positions whose distributions over the vocabulary are held at once, where a mean has to be taken there."""

Read = Callable[[int, Sequence[int], str], Targets]
"""Context, places of queries, support -> the answers behind that context."""


class Teacher:
    """Answers N queries on the objective's support: all beforehand (`precompute`), or some at every step (`targets`).

    Args:
        scorers: how the teacher is asked behind each of m contexts.
        context_of: (N,) the context that a query is answered behind; None for the mean over all contexts.
        counted: whether costs count the queries as examples.
        frozen: for `targets`, gives the model to read with, for as long as it is read with; its weights are always the same.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        queries: Sequence[Row],
        objective: Objective,
        *,
        context_of: np.ndarray | None = None,
        counted: bool = True,
        frozen: Callable[[], AbstractContextManager[torch.nn.Module]] | None = None,
    ) -> None:
        answers = scorers[0].answers
        if objective.support != "labels" and answers.branches:
            raise ValueError(f"support {objective.support} is of one position a query, and labels of several tokens have more")
        if objective.support not in answers.supports:
            raise ValueError(f"support {objective.support} is none of {', '.join(answers.supports)}, which these answers have")
        self.scorers, self.queries, self.objective, self.context_of = scorers, queries, objective, context_of
        self.counts_examples, self.frozen, self.counted = counted, frozen, (0, 0)
        self.online = [_Online(scorer, queries, objective, self._places(i)) for i, scorer in enumerate(scorers)] if frozen else []

    def precompute(self, phase: Phase) -> Targets:
        """The answers to all queries, from the cache where it has them; costs are on `phase`.

        Raises:
            InputError: a prompt does not fit the teacher's window, or k is larger than the vocabulary.
        """
        if self.objective.support == "sampled":
            return sampled_targets(self.scorers[0].answers.tokens(self.queries))
        places, cache = range(len(self.queries)), self.scorers[0].cache
        if cache is None or not self._largest_of_mean:
            return self._targets(places, partial(self._ask, self.scorers, phase))
        scorers = [replace(scorer, cache=None) for scorer in self.scorers]  # the mean alone is kept

        def compute() -> dict[str, np.ndarray]:
            targets = self._targets(places, partial(self._ask, scorers, phase))
            return {"logprobs": targets.logprobs.numpy(), "tokens": targets.tokens.numpy()}

        keys = [_continued(scorer, self.queries).key for scorer in scorers]
        question = SupportQuestion.of(self.objective, scorers[0].answers)
        kept = cache.get({**keys[0], "prompts": [one for key in keys for one in key["prompts"]], **question.key}, compute, phase)
        return Targets(torch.from_numpy(kept["logprobs"]), torch.from_numpy(kept["tokens"]), self._query_of(places))

    @torch.no_grad()
    def targets(self, places: Sequence[int]) -> Targets:
        """The answers to the queries at these places, read anew; each context is encoded once."""
        with self.frozen() as model, reading(model):
            return self._targets(places, lambda i, places, support: self.online[i].targets(model, places, support))

    def count_work(self, phase: Phase) -> None:
        """Count on `phase` what `targets` has read on this rank since the last call."""
        readers = [one.reader for one in self.online if one.reader is not None]
        tokens, padding = (sum(getattr(reader, name) for reader in readers) for name in ("tokens", "padding_tokens"))
        done, model = tokens - self.counted[0], self.scorers[0].model
        phase.count(tokens=done, padding_tokens=padding - self.counted[1], flops=inference_flops(model, done))
        self.counted = (tokens, padding)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(N,) positions of each query."""
        return self.scorers[0].answers.sizes(self.queries)

    @property
    def _largest_of_mean(self) -> bool:
        """Whether the largest of a mean are asked for: they have to be looked for in the whole vocabulary."""
        return self.objective.support == "topk" and self.context_of is None and len(self.scorers) > 1

    def _places(self, context: int) -> np.ndarray:
        """Places of the queries that are answered behind a context, in order."""
        return np.flatnonzero(np.full(len(self.queries), True) if self.context_of is None else self.context_of == context)

    def _query_of(self, places: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.repeat(np.arange(len(places)), self.sizes[places]))

    def _targets(self, places: Sequence[int], read: Read) -> Targets:
        """The answers behind all contexts, or each query's own, put together."""
        contexts, query_of = range(len(self.scorers)), self._query_of(places)
        if self.context_of is not None:
            return self._by_context(places, read)._replace(query_of=query_of)
        if not self._largest_of_mean:
            return _mean([read(i, places, self.objective.support) for i in contexts])._replace(query_of=query_of)
        numbers = (self.sizes[places].cumsum() - 1) // CHUNK
        parts = []
        for chunk in np.split(np.asarray(places), np.flatnonzero(np.diff(numbers)) + 1):
            mean = _mean([read(i, chunk, "vocab") for i in contexts])
            parts.append(support_targets(mean.logprobs, "topk", label_ids=(), topk=self.objective.topk))
        return _joined(parts)._replace(query_of=query_of)

    def _by_context(self, places: Sequence[int], read: Read) -> Targets:
        """Each query's answer behind its own context, in the order of the places."""
        contexts = self.context_of[places]
        groups = [np.flatnonzero(contexts == i) for i in range(len(self.scorers))]
        by_context = [(i, [places[at] for at in group]) for i, group in enumerate(groups) if len(group)]
        joined = _joined([read(i, group, self.objective.support) for i, group in by_context])
        grouped = np.concatenate(groups)
        order = np.argsort(np.repeat(grouped, self.sizes[places][grouped]), kind="stable")
        order = on_device({"order": torch.from_numpy(order)}, joined.logprobs.device)["order"]
        return Targets(joined.logprobs[order], None if joined.tokens is None else joined.tokens[order])

    def _ask(self, scorers: Sequence[Scorer], phase: Phase, i: int, places: Sequence[int], support: str) -> Targets:
        """A context's answers, on the CPU."""
        scorer, queries = scorers[i], [self.queries[place] for place in places]
        if support == "labels":
            return Targets(scorer.answers.labels(scorer.score(queries, phase)), None)
        question = SupportQuestion.of(self.objective, scorer.answers, support)
        kept = scorer.read(_continued(scorer, queries), question, phase, rows=len(queries) if self.counts_examples else 0)
        tensors = {name: torch.from_numpy(array) for name, array in kept.items()}
        return Targets(tensors["logprobs"], tensors.get("tokens"))


class _Online:
    """One context's answers, read anew; the context is encoded at the first.

    Args:
        places: those of all queries that are answered behind it, in order.

    Attributes:
        reader: what the context is encoded in; None before.
        log_prior: what content-free queries get; None where nothing is calibrated.
    """

    def __init__(self, scorer: Scorer, queries: Sequence[Row], objective: Objective, places: np.ndarray) -> None:
        content_free = scorer.answers.content_free(scorer.prompter)
        self.scorer, self.objective, self.places = scorer, objective, places
        self.prompts = _continued(scorer, [queries[place] for place in places], content_free)
        self.content_free = range(len(places), len(places) + len(content_free))
        self.reader: PrefixReader | None = None
        self.log_prior: torch.Tensor | None = None

    def targets(self, model: torch.nn.Module, places: Sequence[int], support: str) -> Targets:
        """The answers to the queries at these places, on the model's device."""
        answers, rows = self.scorer.answers, np.searchsorted(self.places, places)
        if self.reader is None:
            self.reader = PrefixReader(model, self.prompts.prefix, self.scorer.batch_size)
            if self.content_free:
                self.log_prior = answers.log_prior(self.reader.read(self.prompts, self.content_free, answers.question.keep))
        if support == "labels":
            kept = self.reader.read(self.prompts, rows, answers.question.keep)
            return Targets(answers.labels(kept, self.log_prior), None)
        kept = self.reader.read(self.prompts, rows, SupportQuestion.of(self.objective, answers, support).keep)
        return Targets(kept["logprobs"], kept.get("tokens"))


def _continued(scorer: Scorer, queries: Sequence[Row], content_free: Sequence[Row] = ()) -> Continued:
    """The queries' prompts, and those of content-free ones behind them, by their answers."""
    prompts = scorer.prompter.prompts(queries, extra=content_free)
    return scorer.answers.continued(prompts, [*queries, *content_free])


def _mean(parts: Sequence[Targets]) -> Targets:
    """The mean over contexts of their distributions; of one context, its own."""
    return parts[0] if len(parts) == 1 else Targets(mean_logprobs(torch.stack([part.logprobs for part in parts])), None)


def _joined(parts: Sequence[Targets]) -> Targets:
    tokens = [part.tokens for part in parts]
    return Targets(torch.cat([part.logprobs for part in parts]), None if tokens[0] is None else torch.cat(tokens))
