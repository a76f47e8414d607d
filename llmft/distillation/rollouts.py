"""On-policy answers: the student writes after the query alone, and the teacher reads along after its context.

A student is compared with its teacher along its own answers, not the teacher's (Agarwal et al. 2024, arXiv:2306.13649). With
`mixed` the teacher takes over wherever the two are too far apart, so that answers do not drift to things that the context says
nothing about (Speculative Self-Distillation, 2026).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from llmft.cost.flops import inference_flops
from llmft.cost.meter import Meter
from llmft.cost.phases import Phase
from llmft.distillation.divergences import jensen_shannon
from llmft.distillation.targets import SupportQuestion, Targets, TokenQuestion, tempered
from llmft.distillation.teacher import Teacher
from llmft.evaluation.scorer import Scorer
from llmft.models.reading.continuations import Continued
from llmft.models.reading.following import Follower
from llmft.models.reading.generation import Generation
from llmft.models.reading.shared_prefix import OpenPrefix, open_prefix
from llmft.prompts.tokens import TokenizedPrompts
from llmft.runs.ranks import all_gather

PLACES = (1, 2, 4, 8, 16)
"""First positions of the ranges of an answer in which divergences are counted together; each range ends before the next."""


@dataclass(frozen=True)
class Rollout:
    """An answer written for a query, and the targets at its P learnt positions.

    Attributes:
        tokens: all of the answer.
        targets: the teacher's distributions (P, K) over tokens (P, K - 1) and the rest.
    """

    tokens: list[int]
    targets: Targets

    def state(self) -> dict[str, Any]:
        """JSON-able; floats keep their bits."""
        return {"answer": self.tokens, "logprobs": self.targets.logprobs.tolist(), "tokens": self.targets.tokens.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Rollout:
        """The rollout that had this `state`."""
        return cls(state["answer"], Targets(torch.tensor(state["logprobs"]), torch.tensor(state["tokens"])))


@dataclass
class Tally:
    """Totals so far: answers, their tokens, how many of these the teacher wrote, and the Jensen-Shannon divergence of student
    and teacher (nats, over the tokens compared) by position in the answer."""

    answers: int = 0
    tokens: int = 0
    learnt: int = 0
    by_teacher: int = 0
    divergence: list[float] = field(default_factory=lambda: [0.0] * len(PLACES))
    positions: list[int] = field(default_factory=lambda: [0] * len(PLACES))

    def add(self, rollout: Rollout, divergences: np.ndarray, by_teacher: int) -> None:
        """Count an answer, the divergences (P,) at its last positions, and how many of its tokens the teacher wrote."""
        size, learnt = len(rollout.tokens), len(divergences)
        self.answers, self.tokens, self.learnt = self.answers + 1, self.tokens + size, self.learnt + learnt
        self.by_teacher += by_teacher
        group_of = np.searchsorted(PLACES, np.arange(size - learnt, size) + 1, side="right") - 1
        for group, value in zip(group_of, divergences, strict=True):
            self.divergence[group] += float(value)
            self.positions[group] += 1

    def __add__(self, other: Tally) -> Tally:
        """The tally of both together."""
        sums = {
            name: [*map(sum, zip(value, other_value, strict=True))] if isinstance(value, list) else value + other_value
            for (name, value), other_value in zip(vars(self).items(), vars(other).values(), strict=True)
        }
        return Tally(**sums)

    def as_dict(self) -> dict[str, Any]:
        """For the record: means instead of sums, None where nothing was counted."""
        named = [f"{first}" if last == first + 1 else f"{first}-{last - 1}" for first, last in pairwise(PLACES)]
        means = [total / n if n else None for total, n in zip(self.divergence, self.positions, strict=True)]
        return {
            "answers": self.answers,
            "tokens": self.tokens,
            "learnt_tokens": self.learnt,
            "written_by_teacher": self.by_teacher / self.tokens if self.tokens else None,
            "jsd_by_place": dict(zip([*named, f"{PLACES[-1]}-"], means, strict=True)),
        }


class TeacherTakesOver(LogitsProcessor):
    """Replaces the student's scores by the teacher's log-probabilities wherever the two are too far apart.

    Args:
        follower: reads along, as the teacher.
        behind: opens the context manager in which it can read.
        threshold: Jensen-Shannon divergence, over the vocabulary, in nats; at most ln 2.
    """

    def __init__(self, follower: Follower, behind: Callable[[], AbstractContextManager[Any]], threshold: float) -> None:
        self.follower, self.behind, self.threshold = follower, behind, threshold
        self.taken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) -> (B, V)."""
        with self.behind():
            logits = self.follower.next_logits(input_ids[:, -1] if self.taken else None)
        teacher, student = tempered(logits, 1.0), tempered(scores, 1.0)
        taken = jensen_shannon(teacher, student, 0.5) > self.threshold
        self.taken.append(taken)
        return torch.where(taken[:, None], teacher, student)

    def count(self, lengths: Sequence[int]) -> list[int]:
        """How many tokens the teacher wrote in each of the answers of these lengths; also counts the tokens it has read."""
        self.follower.count(lengths)
        taken = torch.stack(self.taken, dim=1).cpu()
        return [int(row[:length].sum()) for row, length in zip(taken, lengths, strict=True)]


class Rollouts:
    """Writes answers to queries with the current student, and has the teacher read them.

    With several ranks, each writes its share of what all ranks need.

    Args:
        student: asks the model that is being trained.
        teacher: `online`; about the same queries.
        generation: how answers are generated; its seed is that of training.
        topk: k, how many of the student's most likely tokens are compared.
        threshold: divergence above which the teacher takes over; None for never. If it may, k of its own tokens are compared too.
        meter: costs go to its phase `rollout`.
    """

    def __init__(
        self, student: Scorer, teacher: Teacher, generation: Generation, *, topk: int, threshold: float | None, meter: Meter
    ) -> None:
        self.student, self.teacher, self.generation, self.meter = student, teacher, generation, meter
        self.threshold, self.more = threshold, 0 if threshold is None else topk
        self.question = SupportQuestion("topk", topk, student.answers)
        self.prompts = student.prompter.prompts(teacher.queries)
        self.tally = Tally()

    def renew(self, places: Sequence[int], step: int, counted: Sequence[bool] | None = None) -> list[Rollout]:
        """Answers to the queries at these places; draws depend on the step and the query.

        Args:
            step: the training step.
            counted: which of them the tally counts: not those repeated to give all ranks equally many; None for all.
        """
        asked = sorted({*chain.from_iterable(all_gather([*places]))})
        generation = replace(self.generation, seed=self.generation.seed + (step << 32))  # a new answer each time
        with self.meter.phase("rollout") as phase:
            with open_prefix(self.student.model, self.prompts.prefix, self.student.batch_size) as behind:
                by_teacher: dict[int, int] = {}
                answers = self._written(behind, asked, generation, by_teacher, phase)
                students = self._read(behind, asked, answers, phase)
            rollouts = self._taught(places, answers, students)
            self.teacher.count_work(phase)
            phase.count(examples=len(places))
        by_teacher = dict(chain.from_iterable(part.items() for part in all_gather(by_teacher)))
        for place, rollout, counts in zip(places, rollouts, counted or [True] * len(places), strict=True):
            if counts:
                self.tally.add(rollout, _divergences(rollout.targets, students[place]), by_teacher.get(place, 0))
        return rollouts

    def _written(
        self,
        behind: OpenPrefix,
        places: Sequence[int],
        generation: Generation,
        by_teacher: dict[int, int],
        phase: Phase,
    ) -> dict[int, list[int]]:
        """Place -> the tokens of an answer; stores in `by_teacher` how many of these are the teacher's."""
        tokenizer = self.student.prompter.tokenizer
        if self.threshold is None:
            written = behind.generate(self._prompts_of(places), generation, tokenizer)
            self._count(phase, written)
            return dict(zip(places, written.ids, strict=True))
        answers: dict[int, list[int]] = {}
        for context, group in self.teacher.by_context(places):
            chosen = [places[i] for i in group]
            takers = _Takers(self.teacher, self.threshold, context, chosen)
            written = behind.generate(self._prompts_of(chosen), generation, tokenizer, takers)
            self._count(phase, written)
            by_teacher |= takers.counts(written.ids)
            answers |= dict(zip(chosen, written.ids, strict=True))
        return answers

    def _read(
        self, behind: OpenPrefix, places: Sequence[int], answers: Mapping[int, list[int]], phase: Phase
    ) -> dict[int, Targets]:
        """Place -> the student's k most likely tokens at the learnt positions of the answer, with their log-probabilities."""
        prompts = self._by_answers(self._prompts_of(places), [answers[place] for place in places])
        kept = behind.read(prompts, self.question.keep)
        self._count(phase, kept)
        parts = [prompts.positions([row]) for row in range(len(places))]
        tensors = {name: torch.from_numpy(array) for name, array in kept.arrays.items()}
        return {
            place: Targets(tensors["logprobs"][part], tensors["tokens"][part]) for place, part in zip(places, parts, strict=True)
        }

    def _taught(self, places: Sequence[int], answers: Mapping[int, list[int]], students: Mapping[int, Targets]) -> list[Rollout]:
        """The teacher's distributions along the answers, on the student's tokens."""
        rollouts: dict[int, Rollout] = {}
        for context, group in self.teacher.by_context(places):
            chosen = [places[i] for i in group]
            tokens = torch.cat([students[place].tokens for place in chosen])
            with self.teacher.behind(context) as (reader, prompts):
                rows = self.teacher.row_of(context, chosen)
                asked = TokenizedPrompts(prompts.prefix, [prompts.suffixes[row] for row in rows])
                continued = self._by_answers(asked, [answers[place] for place in chosen])
                kept: dict[str, list[torch.Tensor]] = {"logprobs": [], "tokens": []}
                order: list[int] = []
                for batch in reader.batches(continued):
                    for name, tensor in reader.read(continued, batch, TokenQuestion(tokens, self.more).keep).items():
                        kept[name] += tensor.cpu().split([continued.counts[row] for row in batch])
                    order += batch
            for row, logprobs, tokens_of_row in zip(order, kept["logprobs"], kept["tokens"], strict=True):
                rollouts[chosen[row]] = Rollout(answers[chosen[row]], Targets(logprobs, tokens_of_row))
        return [rollouts[place] for place in places]

    def _by_answers(self, prompts: TokenizedPrompts, answers: Sequence[Sequence[int]]) -> Continued:
        return Continued.by_answers(prompts, answers).skipping(self.teacher.skip_first)

    def _prompts_of(self, places: Sequence[int]) -> TokenizedPrompts:
        return TokenizedPrompts(self.prompts.prefix, [self.prompts.suffixes[place] for place in places])

    def _count(self, phase: Phase, work: Any) -> None:
        flops = inference_flops(self.student.model, work.tokens)
        phase.count(tokens=work.tokens, padding_tokens=work.padding_tokens, flops=flops)


class _Takers:
    """Lets the teacher take over in each batch of prompts that is continued, and remembers where it did.

    Args:
        context: the one that the teacher answers all these queries behind.
        places: of the queries whose prompts are continued.
    """

    def __init__(self, teacher: Teacher, threshold: float, context: int, places: Sequence[int]) -> None:
        self.teacher, self.threshold, self.context, self.places = teacher, threshold, context, places
        self.made: list[tuple[Sequence[int], TeacherTakesOver]] = []

    def __call__(self, rows: Sequence[int]) -> TeacherTakesOver:
        if self.made:
            self.made[-1][1].follower.inputs = {}  # the keys and values of a batch that is done, or did not fit in memory
        behind, places = partial(self.teacher.behind, self.context), [self.places[row] for row in rows]
        with behind() as (reader, prompts):
            follower = Follower(reader, prompts, self.teacher.row_of(self.context, places))
        self.made.append((rows, TeacherTakesOver(follower, behind, self.threshold)))
        return self.made[-1][1]

    def counts(self, answers: Sequence[Sequence[int]]) -> dict[int, int]:
        """Place -> how many tokens of its answer the teacher wrote; of several attempts at a batch, the last counts."""
        counts: dict[int, int] = {}
        for rows, taker in self.made:
            if taker.taken:
                numbers = taker.count([len(answers[row]) for row in rows])
                counts |= {self.places[row]: number for row, number in zip(rows, numbers, strict=True)}
        return counts


def _divergences(teacher: Targets, student: Targets) -> np.ndarray:
    """(P,) Jensen-Shannon divergence over the student's tokens and the rest."""
    k = student.tokens.shape[1]
    rest = teacher.logprobs[:, k:].logsumexp(-1, keepdim=True)
    return jensen_shannon(torch.cat([teacher.logprobs[:, :k], rest], dim=1), student.logprobs, 0.5).numpy()
