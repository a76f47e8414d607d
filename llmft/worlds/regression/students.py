"""Students of fixed contexts: the teacher is a trained model given a few examples, the student the same model without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from llmft.cost.meter import Meter
from llmft.worlds.regression.estimators import dmmse, place_between, ridge
from llmft.worlds.regression.model import Regressors
from llmft.worlds.regression.pretrained import PretrainedRun
from llmft.worlds.regression.recipe import ExperimentRecipe
from llmft.worlds.regression.tasks import Pool, Problem, Sequences, draw_sequences, seeded_generator

CONTEXTS = 50
"""Together with the seed, this decides the stream of contexts and queries."""
CHUNK = 256
"""Queries that a teacher reads after a context at a time."""
NEW, OF_POOL = "new", "pool"


@dataclass(frozen=True)
class DistillationRecipe(ExperimentRecipe):
    """How contexts are drawn and students trained."""

    context_task: str = NEW
    """Whether a context shows a new task or one of the model's own pool."""
    context_examples: int = 7
    num_contexts: int = 4
    """Contexts per model, each with its own student."""
    queries: int = 4096
    """Inputs that students are trained on."""
    eval_queries: int = 1024
    steps: int = 400
    fit_steps: int = 200
    """Training steps of the control, which is fitted on the examples themselves."""
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0

    @classmethod
    def from_record(cls, config: dict[str, Any]) -> DistillationRecipe:
        """That of a distillation's `config.json`."""
        return cls(**config["arguments"][cls.__name__] | {"seed": config["arguments"]["seeds"]["data_seed"]})


@dataclass(frozen=True)
class Outcome:
    """Predictions for the evaluation queries, each (E, Q) for E = models x contexts, contexts varying fastest.

    Attributes:
        signal: w.x of the context's task.
        teacher, student, dmmse, ridge: the model, the student and the two estimators.
        before: the student before training.
        fit: the control.
    """

    signal: torch.Tensor
    teacher: torch.Tensor
    student: torch.Tensor
    before: torch.Tensor
    fit: torch.Tensor
    dmmse: torch.Tensor
    ridge: torch.Tensor


def distill_contexts(run: PretrainedRun, recipe: DistillationRecipe, meter: Meter, device: torch.device) -> Outcome:
    """Draw contexts, train the students of all models and contexts side by side, and compare all on the evaluation queries."""
    problem = replace(run.recipe.problem, examples=recipe.context_examples)
    generator = seeded_generator(recipe.seed, CONTEXTS, device=device)
    with meter.phase("load"):
        trained, pools = run.load(device)
        drawn_from = pools if recipe.context_task == OF_POOL else [None] * len(pools)
        contexts = draw_sequences(drawn_from, problem, recipe.num_contexts, generator)
        queries, unseen = (
            torch.randn(count, problem.dimension, generator=generator, device=device)
            for count in (recipe.queries, recipe.eval_queries)
        )
        teacher, student = trained.copies(recipe.num_contexts), trained.copies(recipe.num_contexts)
        control = trained.copies(recipe.num_contexts)
    with meter.phase("teacher"):
        targets, answers = (with_contexts(teacher, contexts, x) for x in (queries, unseen))
    with torch.no_grad():
        before = without_context(student, unseen)
    with meter.phase("train"):

        def batch() -> tuple[torch.Tensor, torch.Tensor]:
            chosen = torch.randint(len(queries), (recipe.batch_size,), generator=generator, device=device)
            return queries[chosen], targets[:, chosen]

        fit_students(student, batch, recipe.steps, recipe.learning_rate)
        pairs = contexts.x.repeat(len(pools), 1, 1), contexts.labels.flatten(0, 1)
        fit_students(control, lambda: pairs, recipe.fit_steps, recipe.learning_rate)
    with meter.phase("evaluate", "after", recipe.context_task), torch.no_grad():
        by_dmmse, by_ridge = estimates(contexts, unseen, pools, problem)
        signal = contexts.tasks.flatten(0, 1) @ unseen.T
        after, fit = (without_context(model, unseen) for model in (student, control))
    return Outcome(signal, answers, after, before, fit, by_dmmse, by_ridge)


@torch.no_grad()
def with_contexts(model: Regressors, contexts: Sequences, x: torch.Tensor) -> torch.Tensor:
    """(E, Q) predictions for (Q, D) inputs, each after the context of its member. All models share the (S, n, D) inputs of the
    contexts; their labels, (E / S, S, n), are their own."""
    members, (count, examples, dimension) = model.members, contexts.x.shape
    inputs = contexts.x.repeat(members // count, 1, 1)[:, None]  # (E, 1, n, D)
    labels = contexts.labels.reshape(members, 1, examples)
    parts = []
    for some in x.split(CHUNK):
        size = len(some)
        last = some.view(1, size, 1, dimension).expand(members, -1, -1, -1)
        sequences = torch.cat([inputs.expand(-1, size, -1, -1), last], 2)
        unknown = labels.new_zeros(members, size, 1)
        parts.append(model(sequences, torch.cat([labels.expand(-1, size, -1), unknown], 2))[:, :, -1])
    return torch.cat(parts, 1)


def without_context(model: Regressors, x: torch.Tensor) -> torch.Tensor:
    """(E, Q) predictions for (Q, D) inputs, or (E, Q, D), with no context before them."""
    x = x.expand(model.members, *x.shape[-2:])
    return model(x[:, :, None], x.new_zeros(*x.shape[:2], 1))[:, :, 0]


def fit_students(
    model: Regressors, batch: Callable[[], tuple[torch.Tensor, torch.Tensor]], steps: int, learning_rate: float
) -> None:
    """Train all weights on the squared error with Adam, whose rate falls linearly to 0.

    Args:
        batch: draws inputs, as `without_context` takes them, and their (E, B) targets.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    for step in range(steps):
        x, targets = batch()
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        (without_context(model, x) - targets).square().mean(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def estimates(contexts: Sequences, x: torch.Tensor, pools: Sequence[Pool], problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """The predictions of dMMSE and ridge for (Q, D) inputs after the contexts: two (E, Q)."""
    by_dmmse, by_ridge = [], []
    for pool, of_model in zip(pools, contexts.labels, strict=True):
        for inputs, labels in zip(contexts.x, of_model, strict=True):
            sequences = torch.cat([inputs.expand(len(x), -1, -1), x[:, None]], 1)
            shown = torch.cat([labels, labels.new_zeros(1)]).expand(len(x), -1)
            by_ridge.append(ridge(sequences, shown, problem.noise_variance)[:, -1])
            of_pool = by_ridge[-1] if pool is None else dmmse(sequences, shown, pool, problem.noise_variance)[:, -1]
            by_dmmse.append(of_pool)
    return torch.stack(by_dmmse), torch.stack(by_ridge)


def distances_of(outcome: Outcome, dimension: int, contexts: int) -> list[dict[str, float]]:
    """The table's columns for each model: mean squared differences over queries and contexts, divided by D."""

    def apart(one: torch.Tensor, other: torch.Tensor) -> list[float]:
        return ((one - other).square().view(-1, contexts * one.shape[1]).mean(1) / dimension).tolist()

    student, names = outcome.student, ("student", "teacher", "dmmse", "ridge", "fit")
    columns = {
        **{f"student_to_{name}": apart(student, getattr(outcome, name)) for name in ("teacher", "dmmse", "ridge")},
        "dmmse_to_ridge": apart(outcome.dmmse, outcome.ridge),
        **{f"teacher_to_{name}": apart(outcome.teacher, getattr(outcome, name)) for name in ("dmmse", "ridge")},
        **{f"error_{name}": apart(getattr(outcome, name), outcome.signal) for name in names},
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        place = place_between(row["student_to_dmmse"], row["student_to_ridge"], row["dmmse_to_ridge"])
        if place is not None:
            row["place"] = place
    return rows
