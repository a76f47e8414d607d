"""Linear regression tasks and the sequences that show them (Raventos et al. 2023, arXiv:2306.15063, section 2).

A task is a vector w of D weights. A sequence shows one task in K examples: x_k ~ N(0, I_D) and y_k = w.x_k + noise of variance
s2. A pool is the M tasks that a model is pretrained on; a pool of size 0 means a fresh task w ~ N(0, I_D) in every sequence,
the distribution that the paper calls T_True.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmft.errors import InputError

FRESH = 0
"""Size of a pool without tasks of its own: every sequence gets a fresh one."""
SAME_SIGNAL = 0.25 / 8
"""Noise variance per dimension in the paper's experiments; it keeps the ratio of signal to noise as D grows (section 3.2)."""

Pool = torch.Tensor | None
"""(M, D) tasks; None for fresh ones."""


@dataclass(frozen=True)
class Problem:
    """What a sequence looks like."""

    dimension: int = 4
    """D, weights of a task."""
    examples: int = 8
    """K, examples in a sequence."""
    noise_variance: float = 0.125
    """s2 of a label."""


@dataclass(frozen=True)
class Sequences:
    """The same inputs and noise, labelled by a task of each of E pools.

    Attributes:
        x: (B, K, D) inputs.
        labels: (E, B, K) noisy labels, which models and estimators read.
        signal: (E, B, K) w.x, the labels without their noise.
        tasks: (E, B, D) the w of each.
    """

    x: torch.Tensor
    labels: torch.Tensor
    signal: torch.Tensor
    tasks: torch.Tensor


def draw_pools(sizes: Sequence[int], dimension: int, seed: int, device: torch.device | str = "cpu") -> list[Pool]:
    """The pools of these sizes. They are nested: a smaller pool is the beginning of a larger one of the same seed.

    Raises:
        InputError: there is no memory for so many tasks.
    """
    generator = np.random.default_rng([seed, 1])
    try:
        tasks = generator.standard_normal((max(sizes), dimension), dtype=np.float32)
    except (MemoryError, ValueError) as error:  # ValueError: more numbers than any array can have
        raise InputError(f"--num_pretraining_tasks {max(sizes)}: there is no memory for so many tasks; choose fewer") from error
    return [torch.from_numpy(tasks[:size].copy()).to(device) if size != FRESH else None for size in sizes]


def seeded_generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on all of these numbers, such as a seed and a step."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))


def draw_tasks(pool: Pool, choice: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """(B, D) tasks: those of the pool at `choice` (B,), uniform in [0, 1), or the fresh ones (B, D) if there is no pool."""
    if pool is None:
        return fresh
    return pool[(choice.double() * len(pool)).long()]  # in float64, since float32 cannot reach every task of a large pool


def draw_sequences(pools: Sequence[Pool], problem: Problem, batch: int, generator: torch.Generator) -> Sequences:
    """Draw `batch` sequences on the generator's device. Random numbers are drawn once for all pools, so that models of different
    pools are compared on the same inputs and noise."""
    device, size = generator.device, (batch, problem.examples)
    x = torch.randn(*size, problem.dimension, generator=generator, device=device)
    noise = torch.randn(size, generator=generator, device=device) * problem.noise_variance**0.5
    fresh = torch.randn(batch, problem.dimension, generator=generator, device=device)
    choice = torch.rand(batch, generator=generator, device=device, dtype=torch.float64)
    tasks = torch.stack([draw_tasks(pool, choice, fresh) for pool in pools])
    signal = torch.einsum("bkd,ebd->ebk", x, tasks)
    return Sequences(x, signal + noise, signal, tasks)
