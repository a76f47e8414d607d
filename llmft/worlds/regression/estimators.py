"""The two Bayesian estimators that a pretrained transformer is compared with, and how far apart predictions lie (Raventos et al.
2023, arXiv:2306.15063): dMMSE is optimal for the pool of tasks that a model was pretrained on, ridge for tasks w ~ N(0, I).

Both predict w.x_k from the k - 1 examples before it, for every k at once, in the dtype and on the device of their inputs.
"""

from __future__ import annotations

import math

import torch

BLOCK = 2**22
"""Elements of the (sequences, examples, tasks) tensors that dMMSE makes: 16 MiB each in float32."""
NO_VARIANCE = 1e-10
"""Eigenvalues of X'X below this share of the largest count as 0 where there is little noise or none."""
LITTLE_NOISE = 1e-6
"""Up to this variance X'X + s2 I may be too near to a singular matrix to be solved for."""


def dmmse(x: torch.Tensor, labels: torch.Tensor, pool: torch.Tensor, noise_variance: float, block: int = BLOCK) -> torch.Tensor:
    """Posterior mean under the uniform prior on a pool (eq. 2): w_k = sum_i softmax_i(-1/(2 s2) sum_{j<k} (y_j - w_i.x_j)^2) w_i.

    The first prediction is the pool's mean. Without noise, all posterior mass is on the tasks with the smallest residual.

    Args:
        x: (B, K, D).
        labels: (B, K).
        pool: (M, D), of any size: tasks and sequences are processed in parts.
        noise_variance: s2, 0 or more.
        block: the largest number of elements in a (sequences, K, tasks) tensor.

    Returns:
        (B, K) predictions.
    """
    examples = x.shape[1]
    tasks = max(1, min(len(pool), block // examples))
    rows = max(1, block // (examples * tasks))
    scale = 1 / (2 * max(noise_variance, torch.finfo(x.dtype).tiny))
    parts = zip(x.split(rows), labels.split(rows), strict=True)
    return torch.cat([_posterior_mean(some, of_them, pool.split(tasks), scale) for some, of_them in parts])


def _posterior_mean(x: torch.Tensor, labels: torch.Tensor, blocks: tuple[torch.Tensor, ...], scale: float) -> torch.Tensor:
    """The estimate for a few sequences, with running sums over the blocks of tasks.

    `mass` is the sum of the weights and `weighted` that of the weighted predictions, both relative to the smallest residual so
    far, `least` (B, K), so that nothing over- or underflows.
    """
    least = torch.full_like(labels, math.inf)
    mass, weighted = torch.zeros_like(labels), torch.zeros_like(labels)
    for tasks in blocks:
        predictions = x @ tasks.T  # (B, K, tasks)
        squares = (labels[..., None] - predictions).square()
        residuals = torch.cat([torch.zeros_like(squares[:, :1]), squares.cumsum(1)[:, :-1]], 1)  # of the examples before
        smallest = torch.minimum(least, residuals.amin(-1))
        weights = torch.exp((smallest[..., None] - residuals) * scale)
        kept = torch.exp((smallest - least) * scale)
        mass = mass * kept + weights.sum(-1)
        weighted = weighted * kept + (weights * predictions).sum(-1)
        least = smallest
    return weighted / mass


def ridge(x: torch.Tensor, labels: torch.Tensor, noise_variance: float) -> torch.Tensor:
    """Posterior mean under w ~ N(0, I) (eq. 3): w_k = (X'X + s2 I)^-1 X'y over the k - 1 examples before; w_1 = 0.

    Solved in float64. Where there is little noise, the inverse is made only of the eigenvectors of X'X that the examples span,
    because for k <= D the other eigenvalues are rounding; without noise it is the least-squares solution of the smallest norm.

    Args:
        x: (B, K, D).
        labels: (B, K).
        noise_variance: s2, 0 or more.

    Returns:
        (B, K) predictions.
    """
    wide, targets = x.double(), labels.double()
    gram = torch.einsum("bki,bkj->bkij", wide, wide).cumsum(1)[:, :-1]
    moments = (wide * targets[..., None]).cumsum(1)[:, :-1, :, None]  # X'y
    if noise_variance > LITTLE_NOISE:
        tasks = torch.linalg.solve(gram + noise_variance * torch.eye(x.shape[2], dtype=wide.dtype, device=x.device), moments)
    else:
        values, vectors = torch.linalg.eigh(gram)
        spanned = values > NO_VARIANCE * values[..., -1:]
        inverse = torch.where(spanned, 1 / (values + noise_variance), 0.0)
        tasks = vectors @ (inverse[..., None] * (vectors.mT @ moments))
    predictions = (tasks[..., 0] * wide[:, 1:]).sum(-1).to(x.dtype)
    return torch.cat([torch.zeros_like(labels[:, :1]), predictions], 1)


def distance_by_position(predictions: torch.Tensor, others: torch.Tensor, dimension: int) -> torch.Tensor:
    """(K,) mean over sequences of (f - g)^2 / D at each position of (B, K) predictions. Its mean over positions is Delta of eq. 4
    where both are predictions, the noiseless error where `others` are w.x, and the normalised loss of eq. 1, larger by s2 / D,
    where they are the noisy labels."""
    return (predictions - others).double().square().mean(0) / dimension


def place_between(to_dmmse: float, to_ridge: float, between: float) -> float | None:
    """Where the projection of predictions lies on the line from dMMSE (0) to ridge (1).

    Args:
        to_dmmse, to_ridge: distance (eq. 4) of the predictions to each.
        between: distance between the two; 0 where they are the same and there is no line.
    """
    return (to_dmmse + between - to_ridge) / (2 * between) if between > 0 else None
