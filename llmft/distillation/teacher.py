"""The frozen teacher: it reads context and query, either once for every query before training, or online at every step.

The teacher is the initial student unless it is another model. It runs without gradients and without dropout. In the first case
only its answers remain when training starts: there is no second copy in memory and nothing that training could change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch

from llmft.arguments.objective import Objective
from llmft.cost.flops import inference_flops
from llmft.cost.phases import Phase
from llmft.distillation.targets import SupportQuestion, Targets, mean_logprobs, sampled_targets, support_targets
from llmft.evaluation.scorer import MeanScorer, Scorer
from llmft.models.parts.head import logits_width
from llmft.models.reading.continuations import Continued
from llmft.models.reading.reader import PrefixReader, reading
from llmft.models.wrapping import on_device
from llmft.prompts.tokens import TokenizedPrompts
from llmft.runs.ranks import rank_and_world
from llmft.tasks.schema import Row

CHUNK = 256
"""Number of positions whose distributions over the vocabulary are in memory at once when their mean is taken."""
HELD = 2**31
"""Maximum bytes of keys and values of all contexts of an online teacher. Beyond that, the least recently used are dropped, and
encoded again when they are needed."""

Read = Callable[[int, Sequence[int], str], Targets]
"""Context, places of queries, support -> the answers after that context."""


class Teacher:
    """Answers N queries on the objective's support: all in advance (`precompute`), or some at every step (`targets`).

    Args:
        scorers: how the teacher is asked after each of m contexts.
        context_of: (N,) the context after which a query is answered; None for the mean over all contexts.
        counted: whether costs count the queries as examples.
        frozen: for `targets`, context manager for the model to read with; its weights are always the same.
        skip_first: number of tokens at the start of an answer that have no targets and are not learnt (`Continued.skipping`).
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
        skip_first: int = 0,
    ) -> None:
        answers = scorers[0].answers
        if objective.support != "labels" and answers.branches:
            raise ValueError(f"support {objective.support} is of one position a query, and labels of several tokens have more")
        if objective.support not in answers.supports:
            raise ValueError(f"support {objective.support} is none of {', '.join(answers.supports)}, which these answers have")
        self.scorers, self.queries, self.objective, self.context_of = scorers, queries, objective, context_of
        self.counts_examples, self.frozen, self.counted, self.skip_first = counted, frozen, (0, 0), skip_first
        self.online: list[_Online] = []
        for i, scorer in enumerate(scorers if frozen else ()):
            places = np.arange(len(queries)) if context_of is None else np.flatnonzero(context_of == i)
            self.online.append(_Online(scorer, queries, objective, places, skip_first))
        self._recent: list[_Online] = []

    def precompute(self, phase: Phase) -> Targets:
        """The answers to all queries, from the cache if it has them; costs go to `phase`.

        Raises:
            InputError: a prompt does not fit the teacher's window, or k is larger than the vocabulary.
        """
        if self.objective.support == "sampled":
            tokens = self.scorers[0].answers.tokens(self.queries)
            return sampled_targets([answer[-size:] for answer, size in zip(tokens, self.sizes, strict=True)])
        places, cache = range(len(self.queries)), self.scorers[0].cache
        if cache is None or not self._largest_of_mean:
            return self._targets(places, partial(self._ask, self.scorers, phase))
        scorers = [replace(scorer, cache=None) for scorer in self.scorers]  # only the mean is cached

        def compute() -> dict[str, np.ndarray]:
            targets = self._targets(places, partial(self._ask, scorers, phase))
            return {"logprobs": targets.logprobs.numpy(), "tokens": targets.tokens.numpy()}

        keys = [self._continued(scorer, self.queries).key for scorer in scorers]
        question = SupportQuestion.of(self.objective, scorers[0].answers)
        kept = cache.get({**keys[0], "prompts": [one for key in keys for one in key["prompts"]], **question.key}, compute, phase)
        return Targets(torch.from_numpy(kept["logprobs"]), torch.from_numpy(kept["tokens"]), self._query_of(places))

    @torch.no_grad()
    def targets(self, places: Sequence[int]) -> Targets:
        """The answers to the queries at these places, computed now; each context is encoded once, as far as `HELD` allows."""
        with self.frozen() as model, reading(model):
            return self._targets(places, lambda i, places, support: self._opened(i, model).targets(places, support))

    def by_context(self, places: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The contexts of the queries at these places, one per query, each with the indices of its queries among the places."""
        contexts = np.zeros(len(places), int) if self.context_of is None else self.context_of[places]
        for context in np.unique(contexts):
            yield int(context), np.flatnonzero(contexts == context)

    @contextmanager
    def behind(self, context: int) -> Iterator[tuple[PrefixReader, TokenizedPrompts]]:
        """Context manager: the model reads after a context, which is encoded once, as far as `HELD` allows.

        Yields:
            The reader, and the prompts of all queries with that context, in the order of the queries.
        """
        with torch.no_grad(), self.frozen() as model, reading(model):
            online = self._opened(context, model)
            yield online.reader, online.asked

    def row_of(self, context: int, places: Sequence[int]) -> np.ndarray:
        """The indices, among the prompts of `behind`, of the queries at these places, all of which have that context."""
        return np.searchsorted(self.online[context].places, places)

    def _opened(self, context: int, model: torch.nn.Module) -> _Online:
        """A context, encoded; the least recently used ones are dropped if all together take too much memory."""
        online = self.online[context]
        online.open(model)
        self._recent = [*(one for one in self._recent if one is not online), online]
        while len(self._recent) > 1 and sum(one.reader.nbytes for one in self._recent) > HELD:
            self._recent.pop(0).close()
        return online

    def _continued(self, scorer: Scorer, queries: Sequence[Row]) -> Continued:
        """The queries' prompts with their answers."""
        prompts = scorer.prompter.prompts(queries)
        return scorer.answers.continued(prompts, queries).skipping(self.skip_first)

    def count_work(self, phase: Phase) -> None:
        """Add to `phase` what `targets` has read on this rank since the last call."""
        tokens, padding = (sum(one.read[place] for one in self.online) for place in (0, 1))
        done, model = tokens - self.counted[0], self.scorers[0].model
        phase.count(tokens=done, padding_tokens=padding - self.counted[1], flops=inference_flops(model, done))
        self.counted = (tokens, padding)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(N,) number of positions of each query."""
        sizes = self.scorers[0].answers.sizes(self.queries)
        return np.maximum(sizes - self.skip_first, 1) if self.skip_first else sizes

    @property
    def prompts(self) -> int:
        """How many prompts `precompute` reads: one for each query, or for each query and context of a mean."""
        return 0 if self.objective.support == "sampled" else len(self.queries) * self._contexts_of_a_query

    @property
    def positions(self) -> int:
        """At how many positions `precompute` keeps a distribution, of all contexts of a mean."""
        return int(self.sizes.sum()) * self._contexts_of_a_query

    @property
    def opens_a_file(self) -> bool:
        """Whether `precompute` only has to open a file of the cache, which is not read into memory: with one context, on one
        rank."""
        (scorer, *others), (_, world) = self.scorers, rank_and_world()
        if scorer.cache is None or others or self.context_of is not None or world > 1:
            return False
        question = SupportQuestion.of(self.objective, scorer.answers)
        return scorer.cache.holds(self._continued(scorer, self.queries).key | question.key)

    @property
    def _contexts_of_a_query(self) -> int:
        return len(self.scorers) if self.context_of is None else 1

    @property
    def _largest_of_mean(self) -> bool:
        """Whether the most likely tokens of a mean are needed, which requires the whole vocabulary."""
        return self.objective.support == "topk" and self.context_of is None and len(self.scorers) > 1

    def _query_of(self, places: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.repeat(np.arange(len(places)), self.sizes[places]))

    def _targets(self, places: Sequence[int], read: Read) -> Targets:
        """The answers after all contexts, or after each query's own, put together."""
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
        """Each query's answer after its own context, in the order of the places."""
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
        kept = scorer.read(self._continued(scorer, queries), question, phase, rows=len(queries) if self.counts_examples else 0)
        tensors = {name: torch.from_numpy(array) for name, array in kept.items()}
        return Targets(tensors["logprobs"], tensors.get("tokens"))


class _Online:
    """One context's answers, computed online.

    Args:
        places: the places of all queries with this context, in order.

    Attributes:
        asked: the prompts of these queries, followed by those of content-free ones.
        reader: holds the encoded context; None while it is not encoded.
        log_prior: from content-free queries; None if nothing is calibrated.
    """

    def __init__(self, scorer: Scorer, queries: Sequence[Row], objective: Objective, places: np.ndarray, skip_first: int) -> None:
        self.scorer, self.objective, self.places, self.skip_first = scorer, objective, places, skip_first
        self.queries, self.content_free = [queries[place] for place in places], scorer.answers.content_free(scorer.prompter)
        self.asked = scorer.prompter.prompts(self.queries, extra=self.content_free)
        self.reader: PrefixReader | None = None
        self.log_prior: torch.Tensor | None = None
        self._before = (0, 0)

    @cached_property
    def prompts(self) -> Continued:
        """The prompts with the queries' answers."""
        return self.scorer.answers.continued(self.asked, [*self.queries, *self.content_free]).skipping(self.skip_first)

    @property
    def read(self) -> tuple[int, int]:
        """Numbers of tokens and of padding tokens that have gone through the model."""
        now = (self.reader.tokens, self.reader.padding_tokens) if self.reader is not None else (0, 0)
        return self._before[0] + now[0], self._before[1] + now[1]

    def open(self, model: torch.nn.Module) -> None:
        """Encode the context if it is not encoded."""
        if self.reader is None:
            self.reader = PrefixReader(model, self.asked.prefix, self.scorer.batch_size)

    def close(self) -> None:
        """Drop the encoded context."""
        self._before, self.reader = self.read, None

    def targets(self, places: Sequence[int], support: str) -> Targets:
        """The answers to the queries at these places, on the model's device; the context must be open."""
        answers, rows = self.scorer.answers, np.searchsorted(self.places, places)
        if self.content_free and self.log_prior is None:
            content_free = range(len(self.places), len(self.places) + len(self.content_free))
            self.log_prior = answers.log_prior(self.reader.read(self.prompts, content_free, answers.question.keep))
        if support == "labels":
            kept = self.reader.read(self.prompts, rows, answers.question.keep)
            return Targets(answers.labels(kept, self.log_prior), None)
        kept = self.reader.read(self.prompts, rows, SupportQuestion.of(self.objective, answers, support).keep)
        return Targets(kept["logprobs"], kept.get("tokens"))


def likeliest_along(scorer: MeanScorer, answered: Sequence[Row], phase: Phase, topk: int = Objective.topk) -> Targets:
    """A model's k likeliest tokens at each token of the answers that rows have; costs are on `phase`, without examples.

    Args:
        answered: rows with `answer_ids`, as `MeanScorer.answered` gives them.
        topk: k, or all tokens of the vocabulary if those are fewer.
    """
    objective = Objective(support="topk", topk=min(topk, logits_width(scorer.scorers[0].model)))
    contexts = scorer.context_of(answered)
    return Teacher(scorer.scorers, answered, objective, context_of=contexts, counted=False).precompute(phase)


def _mean(parts: Sequence[Targets]) -> Targets:
    """The mean of the distributions of several contexts; for a single context, its own."""
    return parts[0] if len(parts) == 1 else Targets(mean_logprobs(torch.stack([part.logprobs for part in parts])), None)


def _joined(parts: Sequence[Targets]) -> Targets:
    tokens = [part.tokens for part in parts]
    return Targets(torch.cat([part.logprobs for part in parts]), None if tokens[0] is None else torch.cat(tokens))
