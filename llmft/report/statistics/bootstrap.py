"""Intervals of one run's scores by the percentile bootstrap over its evaluation rows (Efron and Tibshirani 1993, section 13.3).

Rows fall into a few kinds, and how many of each kind are drawn with replacement is multinomial: that is drawn, not the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
TAILS = (0.025, 0.975)
"""Ends of an interval of 95 %."""


def share_intervals(values: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Percentile-bootstrap intervals of means of scores that are 0 or 1, without resampling.

    The sum of n rows drawn with replacement from n right and wrong answers is binomial with the observed share, so the limit of
    the percentile bootstrap is that distribution's quantiles.

    Args:
        values: (N,) means.
        n: (N,) numbers of rows they are of.

    Returns:
        Lower and upper ends, (2, N); NaN for what is no share of n rows: its scores are not all 0 or 1.
    """
    from scipy.stats import binom

    right = np.round(values * n)
    shares = np.where((np.abs(values * n - right) < 1e-6) & (right >= 0) & (right <= n), values.clip(0, 1), np.nan)
    return np.array([binom.ppf(tail, n, shares) / n for tail in TAILS])


def _resampled(counts: np.ndarray, seed: str) -> np.ndarray:
    """`RESAMPLES` draws of as many rows as there are, (RESAMPLES, *counts.shape): how many of each kind.

    Args:
        counts: how many rows of each kind there are.
        seed: a text from which the stream of random numbers starts.
    """
    n, stream = counts.sum(), np.random.default_rng(list(seed.encode()))
    return stream.multinomial(n, counts.ravel() / n, size=RESAMPLES).reshape(-1, *counts.shape)


def mean_interval(scores: np.ndarray, seed: str) -> np.ndarray:
    """Lower and upper end, (2,), of the mean of scores (N,)."""
    kinds, counts = np.unique(scores, return_counts=True)
    return np.quantile(_resampled(counts, seed) @ kinds / len(scores), TAILS)


def f1_of_table(confusion: np.ndarray) -> np.ndarray:
    """F1 of label 1 of tables (..., 2, 2), label first; 0 where no row has it and none is given it."""
    hit = confusion[..., 1, 1]
    either = confusion[..., 1, :].sum(-1) + confusion[..., :, 1].sum(-1)
    return np.divide(2 * hit, either, out=np.zeros(hit.shape), where=either > 0)


def matthews_of_table(confusion: np.ndarray) -> np.ndarray:
    """Matthews' correlation of tables (..., L, L) (Gorodkin 2004, equation 8); 0 where all labels or all answers are one."""
    labels, answers, n = confusion.sum(-1), confusion.sum(-2), confusion.sum((-2, -1)).astype(float)
    covariance = np.trace(confusion, axis1=-2, axis2=-1) * n - (labels * answers).sum(-1)
    spread = np.sqrt((n**2 - (labels.astype(float) ** 2).sum(-1)) * (n**2 - (answers.astype(float) ** 2).sum(-1)))
    return np.divide(covariance, spread, out=np.zeros(np.shape(covariance)), where=spread > 0)


OF_TABLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"f1": f1_of_table, "matthews_correlation": matthews_of_table}
"""Metrics that a confusion table is enough for: these have intervals though they are no means over rows."""


def table_intervals(metric: str, tables: Sequence[np.ndarray], seeds: Sequence[str]) -> np.ndarray:
    """Lower and upper ends, (2, N), of a metric of N confusion tables, each (L, L).

    Args:
        seeds: a text for each table, from which its stream of random numbers starts.
    """
    values = [OF_TABLES[metric](_resampled(table, seed)) for table, seed in zip(tables, seeds, strict=True)]
    return np.quantile(values, TAILS, axis=1)
