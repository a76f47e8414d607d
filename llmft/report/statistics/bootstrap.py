"""Intervals of one run's scores by the percentile bootstrap over its evaluation rows (Efron and Tibshirani
1993, section 13.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def share_intervals(values: np.ndarray, n: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile-bootstrap intervals of accuracies, without resampling.

    The sum of n rows drawn with replacement from n right and wrong answers is binomial with the observed share, so the limit of
    the percentile bootstrap is that distribution's quantiles.

    Args:
        values: (N,) shares of right answers.
        n: (N,) numbers of rows they are of.

    Returns:
        Lower and upper ends, both (N,).
    """
    from scipy.stats import binom

    return tuple(binom.ppf(tail, n, values) / n for tail in ((1 - level) / 2, (1 + level) / 2))


def f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of label 1 of tables (..., 2, 2), label first; 0 where no row has it and none is given it."""
    hit = confusion[..., 1, 1]
    either = confusion[..., 1, :].sum(-1) + confusion[..., :, 1].sum(-1)
    return np.divide(2 * hit, either, out=np.zeros(hit.shape), where=either > 0)


def matthews_correlation(confusion: np.ndarray) -> np.ndarray:
    """Matthews' correlation of tables (..., L, L) (Gorodkin 2004, equation 8); 0 where all labels or all answers are one."""
    labels, answers, n = confusion.sum(-1), confusion.sum(-2), confusion.sum((-2, -1)).astype(float)
    covariance = np.trace(confusion, axis1=-2, axis2=-1) * n - (labels * answers).sum(-1)
    spread = np.sqrt((n**2 - (labels.astype(float) ** 2).sum(-1)) * (n**2 - (answers.astype(float) ** 2).sum(-1)))
    return np.divide(covariance, spread, out=np.zeros(np.shape(covariance)), where=spread > 0)


TABLE_METRICS = {"f1": f1, "matthews_correlation": matthews_correlation}


def table_intervals(
    metric: str, tables: Sequence[np.ndarray], seeds: Sequence[str], level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile-bootstrap intervals of a metric of N confusion tables, each (L, L): drawing rows with replacement draws tables
    from a multinomial distribution.

    Args:
        seeds: a text for each table, from which its stream of random numbers starts.

    Returns:
        Lower and upper ends, both (N,).
    """
    drawn = np.empty((len(tables), RESAMPLES))
    for place, (table, seed) in enumerate(zip(tables, seeds, strict=True)):
        n, stream = table.sum(), np.random.default_rng(list(seed.encode()))
        drawn[place] = TABLE_METRICS[metric](stream.multinomial(n, table.ravel() / n, size=RESAMPLES).reshape(-1, *table.shape))
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2), axis=1)
    return low, high
