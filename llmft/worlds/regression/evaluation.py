"""Compares a pretrained ensemble with the two estimators, on tasks of its pools and on fresh ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from llmft.worlds.regression.estimators import distance_by_position, dmmse, place_between, ridge
from llmft.worlds.regression.model import Regressors
from llmft.worlds.regression.tasks import Pool, Problem, Sequences, draw_sequences, seeded_generator

PRETRAIN, TRUE = "pretrain", "true"
"""Tasks of the pool with new inputs and noise (T_Pretrain), and fresh ones (T_True)."""
TASK_SETS = (PRETRAIN, TRUE)
EVALUATION_SEED = 7
"""Evaluation sequences are the same for all models, whatever their seeds; sequences of pools differ only in their tasks."""
CHUNK = 1024
"""Sequences drawn, predicted and compared at a time."""
KEPT = 1024
"""The number of sequences, from the start of a set, whose results are kept one by one."""


@dataclass
class Comparison:
    """One member on one set of tasks.

    Attributes:
        by_position: name -> (K,) of `distance_by_position`: `loss` (of the model, with noisy labels: eq. 1), `error` (of the
            model), `error_dmmse` and `error_ridge` (to the noiseless w.x), `to_dmmse`, `to_ridge`, `dmmse_to_ridge` (eq. 4).
        rows: of the first sequences, `target` (w.x), `prediction` (of the model) at the last position and `score`, the squared
            distance from the optimal estimator of this set as in `distance`.
        n: sequences.
    """

    by_position: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: dict[str, list[float]] = field(default_factory=lambda: {"target": [], "prediction": [], "score": []})
    n: int = 0

    def add(self, chunk: dict[str, torch.Tensor], rows: dict[str, torch.Tensor]) -> None:
        """Add the results of more sequences."""
        size = len(rows["score"])
        for name, values in chunk.items():
            before = self.by_position.get(name, torch.zeros_like(values))
            self.by_position[name] = (before * self.n + values * size) / (self.n + size)
        for name, values in rows.items():
            self.rows[name] += values[: max(0, KEPT - self.n)].tolist()
        self.n += size

    def metrics(self, task_set: str) -> dict[str, float]:
        """Means over positions. `distance` is the distance to the optimal estimator of the set (dMMSE for tasks of the pool,
        ridge for fresh ones); `place` lies between dMMSE (0) and ridge (1) where these differ."""
        means = {name: values.mean().item() for name, values in self.by_position.items()}
        place = place_between(means["to_dmmse"], means["to_ridge"], means["dmmse_to_ridge"])
        distance = means["to_dmmse" if task_set == PRETRAIN else "to_ridge"]
        return {"distance": distance, **means, **({} if place is None else {"place": place}), "n": self.n}


@torch.no_grad()
def evaluate(
    model: Regressors, pools: Sequence[Pool], problem: Problem, sequences: int, task_sets: Sequence[str] = TASK_SETS
) -> dict[str, list[Comparison]]:
    """Compares each member with the estimators for its pool: set of tasks -> a comparison for each member."""
    device = model.read_in.device
    comparisons = {name: [Comparison() for _ in pools] for name in task_sets}
    for task_set in task_sets:
        of_members = pools if task_set == PRETRAIN else [None] * len(pools)
        for start in range(0, sequences, CHUNK):
            generator = seeded_generator(EVALUATION_SEED, start, device=device)
            drawn = draw_sequences(of_members, problem, min(CHUNK, sequences - start), generator)
            predictions = model(drawn.x, drawn.labels)
            for member, (pool, comparison) in enumerate(zip(pools, comparisons[task_set], strict=True)):
                comparison.add(*_compare(drawn, member, predictions[member], pool, problem, task_set))
    return comparisons


def _compare(
    drawn: Sequences, member: int, prediction: torch.Tensor, pool: Pool, problem: Problem, task_set: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    x, labels, signal = drawn.x, drawn.labels[member], drawn.signal[member]
    by_ridge = ridge(x, labels, problem.noise_variance)
    by_dmmse = by_ridge if pool is None else dmmse(x, labels, pool, problem.noise_variance)
    pairs = {
        "loss": (prediction, labels),
        "error": (prediction, signal),
        "error_dmmse": (by_dmmse, signal),
        "error_ridge": (by_ridge, signal),
        "to_dmmse": (prediction, by_dmmse),
        "to_ridge": (prediction, by_ridge),
        "dmmse_to_ridge": (by_dmmse, by_ridge),
    }
    best = by_dmmse if task_set == PRETRAIN else by_ridge
    rows = {
        "target": signal[:, -1],
        "prediction": prediction[:, -1],
        "score": (prediction - best).square().mean(1) / problem.dimension,
    }
    return {name: distance_by_position(*pair, problem.dimension).cpu() for name, pair in pairs.items()}, rows
