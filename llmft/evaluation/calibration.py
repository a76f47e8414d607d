"""How far a model's confidence is from its accuracy, as pure functions on arrays."""

from __future__ import annotations

import numpy as np


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, 0 to 1 (Guo et al. 2017, arXiv:1706.04599, eq. 3; 15 bins as there).

    Confidence is the largest label probability, the prediction its label (the first of equals). Bin m of M equal-width bins
    holds confidences in ((m - 1) / M, m / M]; a bin counts by its share of the N examples, an empty one not at all.

    Args:
        probabilities: (N, L) of the labels, N at least 1; each row adds up to 1.
        labels: (N,) the right ones.
        bins: M, 1 or more.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    borders = np.arange(1, bins) / bins  # between the bins; rounding errors above 1 stay in the last one
    which = np.digitize(confidence, borders, right=True)
    gaps = np.bincount(which, weights=right - confidence)  # (used bins,) |B_m| (acc(B_m) - conf(B_m))
    return float(np.abs(gaps).sum() / len(labels))
