"""The frozen teacher: reads context and query. Before training once for every query, or online at every step.

The teacher is the student's own start unless it is another model. It runs without gradients and without dropout. In the first
way only its answers are left when training starts: no second copy in memory and nothing that training could touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from llmft.cost.flops import inference_flops
from llmft.cost.phases import Phase
from llmft.evaluation.labels import label_prior
from llmft.evaluation.score import Asker, SplitScores
from llmft.models.label_scores import on_device
from llmft.models.sequence_scores import LabelSequences
from llmft.models.shared_prefix import PrefixReader, reading
from llmft.models.supports import Target, kept_of, mean_logprobs, support_target
from llmft.objective import Objective
from llmft.tasks.table import Row

T = TypeVar("T")

CHUNK = 256
"""Queries whose distributions over the vocabulary are held at once, where a mean has to be taken there."""


@dataclass(frozen=True)
class Teachers:
    """One way of asking for each of m contexts, taken together.

    Attributes:
        turns: query i gets the answer behind context i mod m; else the mean of all m answers.
    """

    askers: tuple[Asker, ...]
    turns: bool = False

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

    def targets(self, queries: Sequence[Row], objective: Objective, phase: Phase) -> Target:
        """The teacher's answers to N queries on the objective's support.

        Raises:
            InputError: a prompt does not fit the teacher's window, or k is larger than the vocabulary.
        """
        if self.turns:

            def read(i: int, mine: list[int]) -> Target:
                return _targets_of(self.askers[i], pick(queries, mine), objective, phase)

            return by_turns(range(len(queries)), len(self.askers), read)
        if len(self.askers) > 1 and objective.support == "topk":
            return self._mean_topk(queries, objective, phase)
        return together([_targets_of(asker, queries, objective, phase) for asker in self.askers], objective)

    def _mean_topk(self, queries: Sequence[Row], objective: Objective, phase: Phase) -> Target:
        """The k largest of the mean: that has to be taken over the vocabulary, some queries at a time."""
        whole, first = of_each(objective, len(self.askers)), self.askers[0]

        def ask() -> dict[str, np.ndarray]:
            chunks = []
            for start in range(0, len(queries), CHUNK):
                some = queries[start : start + CHUNK]
                found = [_targets_of(replace(asker, cache=None), some, whole, phase) for asker in self.askers]
                chunks.append(together(found, objective))
            return {name: tensor.numpy() for name, tensor in _map(chunks, torch.cat)._asdict().items()}

        if first.cache is None:
            found = ask()
        else:
            prompts = [asker.prompts(queries) for asker in self.askers]
            found = first.cache.get(ask, prompts, first.label_sequences, "topk", objective.topk, phase)
        return Target(torch.from_numpy(found["logprobs"]), torch.from_numpy(found["tokens"]))


class OnlineTeacher:
    """Teachers that read the queries of every batch anew; each context is encoded once.

    Args:
        queries: N queries; examples name theirs by its place among them.
        frozen: gives the model to read with, for as long as it is read with; its weights are always the same.
    """

    def __init__(
        self,
        teachers: Teachers,
        queries: Sequence[Row],
        objective: Objective,
        frozen: Callable[[], AbstractContextManager[torch.nn.Module]],
    ) -> None:
        self.teachers, self.objective, self.frozen = teachers, objective, frozen
        self.labels = [LabelSequences.create(asker.label_sequences) for asker in teachers.askers]
        self.prompts = []
        for asker in teachers.askers:
            blanks = asker.prompt_format.content_free_rows() if asker.calibrate else []
            self.prompts.append((asker.prompts(queries, extra=blanks), len(blanks)))
        self.readers: list[PrefixReader | None] = [None] * len(teachers.askers)
        self.log_priors: list[torch.Tensor | float | None] = [None] * len(teachers.askers)
        self.counted = (0, 0)

    @torch.no_grad()
    def targets(self, queries: Sequence[int]) -> Target:
        """Answers to the queries at these places."""
        m = len(self.readers)
        with self.frozen() as model, reading(model):
            if self.teachers.turns:
                return by_turns(queries, m, lambda i, mine: self._read(model, i, pick(queries, mine), self.objective))
            return together([self._read(model, i, queries, of_each(self.objective, m)) for i in range(m)], self.objective)

    def count_work(self, phase: Phase) -> None:
        """Count on `phase` what the teachers have read on this rank since the last call."""
        tokens, padding = (sum(getattr(r, name) for r in self.readers if r) for name in ("tokens", "padding_tokens"))
        done = tokens - self.counted[0]
        model = self.teachers.askers[0].model
        phase.count(tokens=done, padding_tokens=padding - self.counted[1], flops=inference_flops(model, done))
        self.counted = (tokens, padding)

    def _read(self, model: torch.nn.Module, i: int, queries: Sequence[int], objective: Objective) -> Target:
        logits = self._logits(model, i, queries)
        if objective.support == "labels":
            return Target(self._label_logprobs(model, i, logits), None)
        kept = kept_of(objective.support, self.labels[i], objective.topk)(logits)
        return Target(kept["logprobs"], kept.get("tokens"))

    def _label_logprobs(self, model: torch.nn.Module, i: int, logits: torch.Tensor) -> torch.Tensor:
        if self.log_priors[i] is None:
            self.log_priors[i] = self._log_prior(model, i)
        logprobs = self.labels[i].logprobs(logits).double() - self.log_priors[i]
        return logprobs.log_softmax(-1).float()  # as `renormalise`, without a wait for the device

    def _log_prior(self, model: torch.nn.Module, i: int) -> torch.Tensor | float:
        prompts, blanks = self.prompts[i]
        if not blanks:
            return 0.0
        count = len(prompts.suffixes)
        found = self.labels[i].logprobs(self._logits(model, i, range(count - blanks, count))).double()
        return torch.from_numpy(label_prior(found.cpu().numpy())).log().to(found.device)

    def _logits(self, model: torch.nn.Module, i: int, queries: Sequence[int]) -> torch.Tensor:
        prompts = self.prompts[i][0]
        reader = self.readers[i]
        if reader is None:
            reader = self.readers[i] = PrefixReader(model, prompts.prefix, self.labels[i], self.teachers.askers[i].batch_size)
        return reader.logits([prompts.suffixes[query] for query in queries])


def _targets_of(asker: Asker, queries: Sequence[Row], objective: Objective, phase: Phase) -> Target:
    if objective.support == "labels":  # calibrated, if the asker calibrates
        return Target(torch.from_numpy(asker.score(queries, phase).label_logprobs).float(), None)
    topk = objective.topk if objective.support == "topk" else None
    found = asker.read(asker.prompts(queries), objective.support, topk, phase, rows=len(queries))
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    return Target(tensors["logprobs"], tensors.get("tokens"))


def of_each(objective: Objective, contexts: int) -> Objective:
    """What each of several contexts is asked for: the largest of a mean have to be looked for in the whole vocabulary."""
    if contexts > 1 and objective.support == "topk":
        return replace(objective, support="vocab", topk=Objective.topk)
    return objective


def together(parts: Sequence[Target], objective: Objective) -> Target:
    """The mean over contexts of what each said to `of_each`'s question; of one context, what it said."""
    if len(parts) == 1:
        return parts[0]
    mean = mean_logprobs(torch.stack([part.logprobs for part in parts]))
    if objective.support == "topk":
        return support_target(mean, "topk", label_ids=(), topk=objective.topk)
    return Target(mean, None)


def by_turns(queries: Sequence[int], contexts: int, read: Callable[[int, list[int]], Target]) -> Target:
    """The answers to queries of which number q belongs to context q mod m, in their order.

    Args:
        queries: their numbers.
        contexts: m.
        read: context, places in `queries` -> answers.
    """
    places = [[place for place, query in enumerate(queries) if query % contexts == i] for i in range(contexts)]
    found = _map([read(i, mine) for i, mine in enumerate(places) if mine], torch.cat)
    order = torch.from_numpy(np.argsort(np.concatenate([mine for mine in places if mine])))
    order = on_device({"order": order}, found.logprobs.device)["order"]
    return _map([found], lambda tensors: tensors[0][order])


def pick(queries: Sequence[T], places: Sequence[int]) -> list[T]:
    """The queries at these places."""
    return [queries[place] for place in places]


def _map(parts: Sequence[Target], join: Callable[[list[torch.Tensor]], torch.Tensor]) -> Target:
    tokens = [part.tokens for part in parts]
    return Target(join([part.logprobs for part in parts]), None if tokens[0] is None else join(tokens))
