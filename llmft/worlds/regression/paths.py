"""Errors along the path from one task of a pool to another (Raventos et al. 2023, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmft.worlds.regression.estimators import distance_by_position, dmmse, ridge
from llmft.worlds.regression.model import Regressors
from llmft.worlds.regression.tasks import Pool, Problem, draw_pools, seeded_generator

PLACES = 11
SEQUENCES = 64
"""For each pair of tasks."""
SEED = 11


def between_tasks(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """(N, D) tasks w_a = (|w_i| + |w_j|) / 2 * (a w_i + (1 - a) w_j) / |a w_i + (1 - a) w_j| of (N, D) pairs, a being `share`."""
    line = share * first + (1 - share) * second
    length = (first.norm(dim=1, keepdim=True) + second.norm(dim=1, keepdim=True)) / 2
    return length * line / line.norm(dim=1, keepdim=True)


@torch.no_grad()
def path_errors(model: Regressors, pools: Sequence[Pool], problem: Problem, pairs: int) -> list[list[dict[str, float]]]:
    """For each member, a row for each place on the path between two tasks of its pool: `share`, and the noiseless errors of
    model, dMMSE and ridge, divided by D. Pools of fewer than two tasks have no rows; a member trained on fresh tasks is measured
    between fresh ones.

    Computed on the device of the model and the pools. Everything is drawn on the CPU, so that all devices get the same numbers.
    """
    device = model.read_in.device
    fresh = draw_pools([2 * pairs], problem.dimension, SEED, device)[0]
    rows: list[list[dict[str, float]]] = [[] for _ in pools]
    for place in range(PLACES):
        share = place / (PLACES - 1)
        generator = seeded_generator(SEED, place)
        ends = [None if pool is not None and len(pool) < 2 else _ends(fresh if pool is None else pool, pairs) for pool in pools]
        tasks = torch.stack(
            [torch.zeros(pairs, problem.dimension, device=device) if end is None else between_tasks(*end, share) for end in ends]
        )
        x = torch.randn(pairs * SEQUENCES, problem.examples, problem.dimension, generator=generator)
        noise = torch.randn(x.shape[:2], generator=generator) * problem.noise_variance**0.5
        x, noise = x.to(device), noise.to(device)
        signal = torch.einsum("bkd,ebd->ebk", x, tasks.repeat_interleave(SEQUENCES, 1))
        labels = signal + noise
        predictions = torch.cat([model(*part) for part in zip(x.split(512), labels.split(512, 1), strict=True)], 1)
        for member, (pool, end) in enumerate(zip(pools, ends, strict=True)):
            if end is not None:
                by_ridge = ridge(x, labels[member], problem.noise_variance)
                by_dmmse = by_ridge if pool is None else dmmse(x, labels[member], pool, problem.noise_variance)
                answers = {"error": predictions[member], "error_dmmse": by_dmmse, "error_ridge": by_ridge}
                errors = {
                    name: distance_by_position(values, signal[member], problem.dimension).mean().item()
                    for name, values in answers.items()
                }
                rows[member].append({"share": share, **errors})
    return rows


def _ends(pool: torch.Tensor, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`pairs` pairs of two different tasks of a pool, the same at every place on the path."""
    generator = seeded_generator(SEED, len(pool))
    first = torch.randint(len(pool), (pairs,), generator=generator)
    second = (first + 1 + torch.randint(len(pool) - 1, (pairs,), generator=generator)) % len(pool)
    return pool[first.to(pool.device)], pool[second.to(pool.device)]
