"""Context distillation: the student reads only the query and learns to answer as the teacher did after the context."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from llmft.arguments.objective import Objective
from llmft.cost.phases import Phase
from llmft.distillation.divergences import distillation_loss
from llmft.distillation.rollouts import Rollout, Rollouts, Tally
from llmft.distillation.targets import Targets
from llmft.distillation.teacher import Teacher
from llmft.evaluation.answers import ASKED, Answers
from llmft.training.ft_trainer import REAL, SIZE, WEIGHTS, FtTrainer, collate, collator, leave_signals_to_main
from llmft.training.stop_at_nan import POSITION

RETAIN_EVERY = 4
"""Number of queries for each prompt of `Retained` that is read with them."""
RETAINED = "retained"
"""Key of a batch: the batch of prompts of `Retained` that are read with it, if there are any."""
UNBOUNDED = {"forward": ("student", "teacher", "reverse"), "reverse": ("teacher", "student", "forward")}
"""Divergences that may be infinite: the side that then gives no probability, the side that gives some, and an alternative."""


def with_targets(examples: Sequence[dict[str, Any]], targets: Targets | None) -> list[dict[str, Any]]:
    """The examples with their targets: `teacher_logprobs` (A, K) at the A positions that each asks about, and for `topk` also
    `teacher_tokens` (A, k); or, for an online teacher, the place `query` of their query.

    Args:
        targets: precomputed, in the order of the examples; None with an online teacher.
    """
    if targets is None:
        return [{**example, "query": i} for i, example in enumerate(examples)]
    parts = []
    for target in targets.by_query():
        parts.append({"teacher_logprobs": target.logprobs})
        if target.tokens is not None:
            parts[-1]["teacher_tokens"] = target.tokens
    return [{**example, **part} for example, part in zip(examples, parts, strict=True)]


def skipping(examples: Sequence[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Examples of texts without a loss on the `first` tokens of their answers; the last token is always learnt."""
    shorter = []
    for example in examples:
        size = max(example[ASKED] - first, 1)
        gold = {"answer": example["answer"][-size:]} if "answer" in example else {}
        shorter.append({**example, ASKED: size, **gold})
    return shorter


def read_with(queries: int) -> int:
    """How many prompts of `Retained` a rank reads in a step in which it reads this number of queries."""
    return math.ceil(queries / RETAIN_EVERY)


@dataclass(frozen=True)
class Retained:
    """Prompts to which the student should answer as the model did before training: `weight` is the share in the loss of
    D(before, student) on them.

    Attributes:
        examples: with the targets of the model before training.
        choices: divergence, support and temperature.
        seed: of their order, which is another one each time that all have been read.
    """

    weight: float
    examples: Sequence[dict[str, Any]]
    choices: Objective
    seed: int

    def rows(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """The prompts with these numbers in the order in which training reads them, which goes on without an end."""
        turns: dict[int, np.ndarray] = {}
        rows = []
        for number in numbers:
            turn, place = divmod(number, len(self.examples))
            if turn not in turns:
                turns[turn] = np.random.default_rng((self.seed, turn)).permutation(len(self.examples))
            rows.append(self.examples[turns[turn][place]])
        return rows


class ContextDistillationTrainer(FtTrainer):
    """Minimises T^2 * D(teacher, student) on a support, plus a weighted cross-entropy with gold answers if requested (Askell et
    al. 2021, eq. 2.1; Snell et al. 2022, eq. 1).

    A training example has what `with_targets` adds; the cross-entropy uses its `answer`, the gold token (or tokens).

    Args:
        choices: divergence, support, temperature, weight of the cross-entropy.
        answers: the student's, and how they are compared with the teacher's.
        teacher: the online teacher, or None for precomputed answers.
        retained: the behaviour that the student should keep; None for nothing.
    """

    def __init__(
        self,
        *args: Any,
        choices: Objective,
        answers: Answers,
        teacher: Teacher | None = None,
        retained: Retained | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.choices, self.answers, self.teacher, self.retained = choices, answers, teacher, retained
        self.collate_retained = None if retained is None else collator(self.model, ())
        self.retained_read = 0  # prompts, on this rank
        self.retained_items: torch.Tensor | None = None  # of the step, as `items_of`

    def items_of(self, batches: Sequence[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Also give a step's batches the prompts of `retained` that are read with them, as many whatever the batches are, and
        count these likewise; ranks take turns with them."""
        if self.retained is not None:
            first, rank, ranks = self.retained_read, self.args.process_index, self.args.world_size
            ends = [first + read_with(queries) for queries in accumulate(batch[SIZE] for batch in batches)]
            for batch, end in zip(batches, ends, strict=True):
                numbers = range(self.retained_read, end)
                if numbers:
                    batch[RETAINED] = self.collate_retained(self.retained.rows(number * ranks + rank for number in numbers))
                self.retained_read = end
            self.retained_items = super().items_of([batch[RETAINED] for batch in batches if RETAINED in batch], device)
        return super().items_of(batches, device)

    def whole_loss(self, loss: torch.Tensor, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The loss of a batch, part of which is on `retained`, if there is any."""
        if self.retained is None:
            return loss
        loss = (1 - self.retained.weight) * loss
        if RETAINED in inputs:
            loss = loss + self.retained.weight * self._retain_loss(model, inputs[RETAINED])
        return loss

    def _retain_loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """That of such prompts; their tokens (or examples) of a step count alike, as those of the queries do."""
        self._count(model, batch, 0)
        logits, weights = super().answer_logits(model, batch), self._weights(batch[ASKED], None, self.retained_items)
        targets = batch["teacher_logprobs"], batch["teacher_tokens"]
        return distillation_loss(self.retained.choices, logits, *targets, weights=weights)

    def progress(self) -> dict[str, Any]:
        """Also how many prompts to retain have been read."""
        return super().progress() | {"retained_read": self.retained_read}

    def restore(self, progress: dict[str, Any]) -> None:
        """Also restore that."""
        super().restore(progress)
        self.retained_read = progress.get("retained_read", 0)

    def answer_logits(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The part of the student's logits that is compared with the teacher's answers."""
        return self.answers.compared(super().answer_logits(model, inputs))

    def count_work(self, phase: Phase) -> None:
        """Also count what an online teacher has read."""
        super().count_work(phase)
        if self.teacher is not None:
            self.teacher.count_work(phase)

    def add_targets(self, inputs: dict[str, Any]) -> None:
        """Add an online teacher's answers."""
        if self.teacher is not None:
            targets = self.teacher.targets(inputs["query"])
            inputs["teacher_logprobs"] = targets.logprobs
            if targets.tokens is not None:
                inputs["teacher_tokens"] = targets.tokens

    def answer_loss(self, logits: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Divergence from the teacher's answers, from the result of `answer_logits`."""
        tokens, gold = inputs.get("teacher_tokens", self.answers.ids), inputs.get("answer")
        return distillation_loss(self.choices, logits, inputs["teacher_logprobs"], tokens, gold, inputs.get(WEIGHTS))

    def cause(self, loss: float, positions: Sequence[int]) -> str | None:
        """A divergence is infinite where one side gives zero probability and the other does not."""
        divergence, support = self.choices.divergence, self.choices.support
        if loss != math.inf or divergence not in UNBOUNDED or self.choices.ce_weight:
            return None
        without, other_side, other = UNBOUNDED[divergence]
        if without == "teacher" and self.teacher is None:  # else its answers are gone
            targets = [self.train_dataset[position]["teacher_logprobs"] for position in positions]
            if not any((target == -torch.inf).any() for target in targets):
                return None
        return (
            f"--divergence {divergence}: the {without} gives no probability at all to what the {other_side} gives some, "
            f"where this divergence is infinite; use --divergence {other} or jsd, or a --support other than {support}"
        )


class OnPolicyTrainer(ContextDistillationTrainer):
    """Context distillation along answers that the student writes while it trains (`Rollouts`).

    An example is a query's prompt, `input_ids`. Every `every` steps, the answers for that many steps are written (fewer at the
    end of an epoch). The resulting batches are like those with precomputed answers.

    Args:
        rollouts: writes the answers, and has the teacher read them.
    """

    def __init__(self, *args: Any, rollouts: Rollouts, every: int, **kwargs: Any) -> None:
        super().__init__(*args, data_collator=_queries, **kwargs)
        self.rollouts, self.every, self.collate = rollouts, every, collate
        self._ahead: list[tuple[dict[str, Any], list[Rollout]]] = []  # batches of the next steps, and what they are made from
        self._restored: list[list[Rollout]] = []

    def collate_with(self, collator: Callable[..., dict[str, Any]]) -> None:
        """Set how examples are collated once they have answers."""
        self.collate = collator

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step, with answers, and their number of tokens (or examples) on all ranks."""
        if not self._ahead:
            asked = self._fetched(epoch_iterator, len(self._restored) or num_batches * self.every, device)
            written = self._restored or self._renewed(asked)
            self._ahead, self._restored = [(self._batch(*one), one[1]) for one in zip(asked, written, strict=True)], []
        batches, self._ahead = [batch for batch, _ in self._ahead[:num_batches]], self._ahead[num_batches:]
        return batches, self.items_of(batches, device)

    def cause(self, loss: float, positions: Sequence[int]) -> str | None:
        """None: the distributions are over likely tokens and all others, so no divergence is infinite."""
        return None

    def progress(self) -> dict[str, Any]:
        """Also the answers of the next steps, and the tally."""
        ahead = [[rollout.state() for rollout in rollouts] for _, rollouts in self._ahead]
        return super().progress() | {"ahead": ahead, "tally": vars(self.rollouts.tally)}

    def restore(self, progress: dict[str, Any]) -> None:
        """Also restore these."""
        super().restore(progress)
        self._restored = [[*map(Rollout.from_state, states)] for states in progress["ahead"]]
        self.rollouts.tally = Tally(**progress["tally"])

    def _fetched(self, epoch_iterator: Any, number: int, device: torch.device) -> list[dict[str, Any]]:
        """`number` batches of queries, or what the epoch has left."""
        fetched: list[dict[str, Any]] = []
        while len(fetched) < number:
            batches = super().get_batch_samples(epoch_iterator, 1, device)[0]
            fetched += batches
            if not batches or self.accelerator.gradient_state.end_of_dataloader:
                break
        return fetched

    def _renewed(self, asked: Sequence[dict[str, Any]]) -> list[list[Rollout]]:
        places = [place for batch in asked for place in batch["query"]]
        counted = [row < batch.get(REAL, (len(batch["query"]),))[0] for batch in asked for row in range(len(batch["query"]))]
        rollouts = iter(self.rollouts.renew(places, self.state.global_step, counted))
        return [[next(rollouts) for _ in batch["query"]] for batch in asked]

    def _batch(self, asked: dict[str, Any], rollouts: Sequence[Rollout]) -> dict[str, Any]:
        examples = []
        for place, rollout in zip(asked["query"], rollouts, strict=True):
            prompt, targets = self.train_dataset[place], rollout.targets
            examples.append(
                {
                    "input_ids": [*prompt["input_ids"], *rollout.tokens[:-1]],
                    ASKED: len(targets.logprobs),
                    "teacher_logprobs": targets.logprobs,
                    "teacher_tokens": targets.tokens,
                    POSITION: place,
                }
            )
        return self.collate(examples) | ({REAL: asked[REAL]} if REAL in asked else {})


def _queries(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of queries, as their places: they have no answers yet."""
    leave_signals_to_main()
    return {"query": [example[POSITION] for example in examples]}
