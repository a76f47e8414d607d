"""The frozen teacher: reads context and query. Before training once for every query, or online at every step.

The teacher is the student's own start unless it is another model. It runs without gradients and without dropout. In the first
way only its answers are left when training starts: no second copy in memory and nothing that training could touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from llmft.arguments.objective import Objective
from llmft.cost.flops import inference_flops
from llmft.cost.phases import Phase
from llmft.distillation.targets import SupportQuestion, Targets, mean_logprobs, support_targets
from llmft.evaluation.labels import label_prior
from llmft.evaluation.scorer import Asker, SplitScores
from llmft.models.reading.continuations import Continued
from llmft.models.reading.reader import PrefixReader, reading
from llmft.models.wrapping import on_device
from llmft.tasks.table import Row

CHUNK = 256
"""Positions whose distributions over the vocabulary are held at once, where a mean has to be taken there."""

Read = Callable[[int, Sequence[int], str], Targets]
"""Context, places of queries, support -> the answers behind that context."""


@dataclass(frozen=True)
class Teachers:
    """One way of asking for each of m contexts, taken together."""

    askers: tuple[Asker, ...]

    def with_model(self, model: torch.nn.Module) -> Teachers:
        """The same questions to another model."""
        return replace(self, askers=tuple(asker.with_model(model) for asker in self.askers))

    def check_window(self, rows: Sequence[Row]) -> None:
        """Check that prompts fit, as `Asker.check_window`."""
        for asker in self.askers:
            asker.check_window(rows)

    def score(self, rows: Sequence[Row], phase: Phase) -> SplitScores:
        """The mean of the distributions behind each context, also where queries take turns in training.

        `best_token` is the one that most contexts put first (the smallest of several).
        """
        found = [asker.score(rows, phase) for asker in self.askers]
        if len(found) == 1:
            return found[0]

        def mean(name: str) -> np.ndarray:
            return np.logaddexp.reduce([getattr(scores, name) for scores in found]) - np.log(len(found))

        best = np.stack([scores.best_token for scores in found])
        return replace(
            found[0],
            token_logprobs=mean("token_logprobs"),
            label_logprobs=mean("label_logprobs"),
            best_token=np.array([np.bincount(column).argmax() for column in best.T]),
            tokens_per_query=float(np.mean([scores.tokens_per_query for scores in found])),
            shortened=max(scores.shortened for scores in found),
        )


class Teacher:
    """Answers N queries on the objective's support: all beforehand (`precompute`), or some at every step (`targets`).

    Args:
        askers: one way of asking for each of m contexts.
        context_of: (N,) the context that a query is answered behind; None for the mean over all contexts.
        answers: (N) token sequences, the support being taken at each position that predicts one of their tokens; None for the
            position behind the query alone.
        frozen: for `targets`, gives the model to read with, for as long as it is read with; its weights are always the same.
    """

    def __init__(
        self,
        askers: Sequence[Asker],
        queries: Sequence[Row],
        objective: Objective,
        *,
        context_of: np.ndarray | None = None,
        answers: Sequence[Sequence[int]] | None = None,
        frozen: Callable[[], AbstractContextManager[torch.nn.Module]] | None = None,
    ) -> None:
        if answers is None and objective.support != "labels" and any(asker.labels.rows > 1 for asker in askers):
            raise ValueError(f"support {objective.support} is of one position a query, and labels of several tokens have more")
        if answers is not None and any(asker.calibrate for asker in askers):
            raise ValueError("the prior of labels says nothing of answers in words: calibrate no asker")
        self.askers, self.queries, self.objective, self.context_of = askers, queries, objective, context_of
        self.answers, self.frozen = answers, frozen
        self.sizes = np.ones(len(queries), int) if answers is None else np.array([*map(len, answers)])  # positions of a query
        self.online = [_Online(asker, queries, answers) for asker in askers] if frozen else []
        self.counted = (0, 0)

    def precompute(self, phase: Phase) -> Targets:
        """The answers to all queries, from the cache where it has them; costs are on `phase`.

        Raises:
            InputError: a prompt does not fit the teacher's window, or k is larger than the vocabulary.
        """
        everything, cache = range(len(self.queries)), self.askers[0].cache
        if cache is None or not self._largest_of_mean:
            return self._targets(everything, partial(self._ask, self.askers, phase))
        askers = [replace(asker, cache=None) for asker in self.askers]  # the mean alone is kept

        def compute() -> dict[str, np.ndarray]:
            targets = self._targets(everything, partial(self._ask, askers, phase))
            return {"logprobs": targets.logprobs.numpy(), "tokens": targets.tokens.numpy()}

        keys = [_continued(asker, self.queries, self.answers).key for asker in askers]
        question = SupportQuestion("topk", self.objective.topk, askers[0].labels)
        kept = cache.get({**keys[0], "prompts": [one for key in keys for one in key["prompts"]], **question.key}, compute, phase)
        return Targets(torch.from_numpy(kept["logprobs"]), torch.from_numpy(kept["tokens"]), self._query_of(everything))

    @torch.no_grad()
    def targets(self, places: Sequence[int]) -> Targets:
        """The answers to the queries at these places, read anew; each context is encoded once."""

        def read(i: int, places: Sequence[int], support: str) -> Targets:
            return self.online[i].targets(model, places, support, self.objective.topk)

        with self.frozen() as model, reading(model):
            return self._targets(places, read)

    def count_work(self, phase: Phase) -> None:
        """Count on `phase` what `targets` has read on this rank since the last call."""
        readers = [one.reader for one in self.online if one.reader is not None]
        tokens, padding = (sum(getattr(reader, name) for reader in readers) for name in ("tokens", "padding_tokens"))
        done, model = tokens - self.counted[0], self.askers[0].model
        phase.count(tokens=done, padding_tokens=padding - self.counted[1], flops=inference_flops(model, done))
        self.counted = (tokens, padding)

    @property
    def _largest_of_mean(self) -> bool:
        """Whether the largest of a mean are asked for: they have to be looked for in the whole vocabulary."""
        return self.objective.support == "topk" and self.context_of is None and len(self.askers) > 1

    def _query_of(self, places: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.repeat(np.arange(len(places)), self.sizes[places]))

    def _targets(self, places: Sequence[int], read: Read) -> Targets:
        """The answers behind all contexts, or each query's own, put together."""
        contexts, support, query_of = range(len(self.askers)), self.objective.support, self._query_of(places)
        if self._largest_of_mean:
            numbers = (self.sizes[places].cumsum() - 1) // CHUNK
            parts = []
            for chunk in np.split(np.asarray(places), np.flatnonzero(np.diff(numbers)) + 1):
                mean = _mean([read(i, chunk, "vocab") for i in contexts])
                parts.append(support_targets(mean.logprobs, "topk", label_ids=(), topk=self.objective.topk))
            return _joined(parts)._replace(query_of=query_of)
        if self.context_of is None:
            return _mean([read(i, places, support) for i in contexts])._replace(query_of=query_of)
        own = [np.flatnonzero(self.context_of[places] == i) for i in contexts]
        joined = _joined([read(i, [places[at] for at in mine], support) for i, mine in enumerate(own) if len(mine)])
        grouped = np.concatenate(own)
        order = np.argsort(np.repeat(grouped, self.sizes[places][grouped]), kind="stable")
        order = on_device({"order": torch.from_numpy(order)}, joined.logprobs.device)["order"]
        return Targets(joined.logprobs[order], None if joined.tokens is None else joined.tokens[order], query_of)

    def _ask(self, askers: Sequence[Asker], phase: Phase, i: int, places: Sequence[int], support: str) -> Targets:
        """A context's answers, on the CPU."""
        asker, queries = askers[i], [self.queries[place] for place in places]
        if support == "labels":  # calibrated, if the asker calibrates
            return Targets(torch.from_numpy(asker.score(queries, phase).label_logprobs).float(), None)
        answers = self.answers and [self.answers[place] for place in places]
        question = SupportQuestion(support, self.objective.topk if support == "topk" else None, asker.labels)
        kept = asker.read(_continued(asker, queries, answers), question, phase, rows=len(queries))
        tensors = {name: torch.from_numpy(array) for name, array in kept.items()}
        return Targets(tensors["logprobs"], tensors.get("tokens"))


class _Online:
    """One context's answers, read anew; the context is encoded at the first.

    Attributes:
        reader: what the context is encoded in; None before.
    """

    def __init__(self, asker: Asker, queries: Sequence[Row], answers: Sequence[Sequence[int]] | None) -> None:
        blanks = asker.prompt_format.content_free_rows() if asker.calibrate else []
        self.asker, self.labels, self.prompts = asker, asker.labels, _continued(asker, queries, answers, blanks)
        self.blanks = range(len(queries), len(queries) + len(blanks))
        self.reader: PrefixReader | None = None
        self.log_prior: torch.Tensor | float | None = None

    def targets(self, model: torch.nn.Module, places: Sequence[int], support: str, topk: int) -> Targets:
        """The answers to the queries at these places, on the model's device."""
        if self.reader is None:
            self.reader = PrefixReader(model, self.prompts.prefix, self.asker.batch_size)
        if support != "labels":
            kept = self.reader.read(self.prompts, places, SupportQuestion(support, topk, self.labels).keep)
            return Targets(kept["logprobs"], kept.get("tokens"))
        if self.log_prior is None:
            self.log_prior = self._log_prior() if self.blanks else 0.0
        return Targets((self._scores(places) - self.log_prior).log_softmax(-1).float(), None)  # `renormalise`, without a wait

    def _scores(self, places: Sequence[int]) -> torch.Tensor:
        return self.labels.sums(self.reader.read(self.prompts, places, self.labels.keep)["token_logprobs"]).double()

    def _log_prior(self) -> torch.Tensor:
        scores = self._scores(self.blanks)
        return torch.from_numpy(label_prior(scores.cpu().numpy())).log().to(scores.device)


def _continued(
    asker: Asker, queries: Sequence[Row], answers: Sequence[Sequence[int]] | None, blanks: Sequence[Row] = ()
) -> Continued:
    """The queries' prompts, and those of content-free ones behind them, by their own answers or by the labels."""
    prompts = asker.prompts(queries, extra=blanks)
    return Continued.by_labels(prompts, asker.labels) if answers is None else Continued.by_answers(prompts, answers)


def _mean(parts: Sequence[Targets]) -> Targets:
    """The mean over contexts of their distributions; of one context, its own."""
    return parts[0] if len(parts) == 1 else Targets(mean_logprobs(torch.stack([part.logprobs for part in parts])), None)


def _joined(parts: Sequence[Targets]) -> Targets:
    tokens = [part.tokens for part in parts]
    return Targets(torch.cat([part.logprobs for part in parts]), None if tokens[0] is None else torch.cat(tokens))
