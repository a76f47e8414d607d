"""Intervals of one run's scores by the percentile bootstrap over its evaluation rows (Efron and Tibshirani 1993, section 13.3).

There are only a few kinds of rows, and the counts of each kind in a sample with replacement are multinomial: these counts are
drawn, not the rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 1000
TAILS = (0.025, 0.975)
"""Ends of a 95 % interval."""
RIGHT_OR_WRONG = ("score_accuracy", "exact_match", "contains", "code_exact_match", "identifier_match")
"""Metrics whose scores are 0 or 1 for each row."""


def share_interval(value: float, n: float) -> np.ndarray:
    """The interval of a mean of n scores that are 0 or 1, (2,), without resampling.

    The sum of n rows drawn with replacement from n right and wrong answers is binomial with the observed share, so the limit of
    the percentile bootstrap is given by that distribution's quantiles. NaN if the value is not a share of n rows, that is, if
    scores are not all 0 or 1.
    """
    from scipy.stats import binom

    share = 0 <= value <= 1 and abs(value * n - round(value * n)) < 1e-6
    return binom.ppf(TAILS, n, value) / n if share else np.full(2, np.nan)


def _resampled(counts: np.ndarray, seed: str) -> np.ndarray:
    """`RESAMPLES` draws of as many rows as there are, (RESAMPLES, *counts.shape): the numbers of each kind, given their observed
    `counts`. The text `seed` seeds the random numbers."""
    n, stream = counts.sum(), np.random.default_rng(list(seed.encode()))
    return stream.multinomial(n, counts.ravel() / n, size=RESAMPLES).reshape(-1, *counts.shape)


def mean_interval(scores: np.ndarray, seed: str) -> np.ndarray:
    """The interval, (2,), of the mean of scores (N,)."""
    kinds, counts = np.unique(scores, return_counts=True)
    return np.quantile(_resampled(counts, seed) @ kinds / len(scores), TAILS)


def f1_of_table(confusion: np.ndarray) -> np.ndarray:
    """F1 of label 1 for tables (..., 2, 2), label first; 0 if no row has this label and none is predicted to have it."""
    hit = confusion[..., 1, 1]
    either = confusion[..., 1, :].sum(-1) + confusion[..., :, 1].sum(-1)
    return np.divide(2 * hit, either, out=np.zeros(hit.shape), where=either > 0)


def matthews_of_table(confusion: np.ndarray) -> np.ndarray:
    """Matthews' correlation of tables (..., L, L) (Gorodkin 2004, equation 8); 0 if all labels or all answers are the same."""
    labels, answers, n = confusion.sum(-1), confusion.sum(-2), confusion.sum((-2, -1)).astype(float)
    covariance = np.trace(confusion, axis1=-2, axis2=-1) * n - (labels * answers).sum(-1)
    spread = np.sqrt((n**2 - (labels.astype(float) ** 2).sum(-1)) * (n**2 - (answers.astype(float) ** 2).sum(-1)))
    return np.divide(covariance, spread, out=np.zeros(np.shape(covariance)), where=spread > 0)


OF_TABLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"f1": f1_of_table, "matthews_correlation": matthews_of_table}
"""Metrics that can be computed from a confusion table: they have intervals though they are not means over rows."""


def table_interval(metric: str, confusion: np.ndarray, seed: str) -> np.ndarray:
    """The interval, (2,), of a metric of a confusion table (L, L)."""
    return np.quantile(OF_TABLES[metric](_resampled(confusion, seed)), TAILS)
