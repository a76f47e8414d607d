import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmft.evaluation.calibration import expected_calibration_error


def two_labels(*first):
    return np.array([[p, 1 - p] for p in first])


def test_by_hand():
    probabilities = two_labels(0.55, 0.6, 0.25, 0.95)  # confidences 0.55, 0.6 | 0.75 | 0.95 in bins of width 0.2
    labels = np.array([0, 1, 1, 1])  # right, wrong | right | wrong
    # (0.4, 0.6]: 2 * |0.5 - 0.575|; (0.6, 0.8]: |1 - 0.75|; (0.8, 1]: |0 - 0.95|; over 4
    assert expected_calibration_error(probabilities, labels, bins=5) == pytest.approx((0.15 + 0.25 + 0.95) / 4)


def test_within_a_bin_errors_cancel_and_between_bins_they_do_not():
    probabilities, labels = two_labels(0.7, 0.7, 0.9, 0.9), np.array([0, 0, 0, 1])
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(0.05)  # 0.75 right, 0.8 sure
    assert expected_calibration_error(probabilities, labels, bins=15) == pytest.approx((0.3 + 0.4) / 2)


@pytest.mark.parametrize("right, expected", [([0, 0], 0.0), ([0, 1], 0.5), ([1, 1], 1.0)])
def test_all_confidence_is_one(right, expected):
    assert expected_calibration_error(two_labels(1.0, 1.0 + 1e-16), np.array(right)) == expected


def test_of_equal_labels_the_first_is_the_prediction():
    probabilities = np.full((4, 2), 0.5)
    assert expected_calibration_error(probabilities, np.array([0, 0, 1, 1])) == 0
    assert expected_calibration_error(probabilities, np.zeros(4)) == 0.5


def test_a_border_belongs_to_the_bin_below():
    probabilities, labels = two_labels(0.6, 0.61), np.array([0, 1])
    assert expected_calibration_error(probabilities, labels, bins=5) == pytest.approx((0.4 + 0.61) / 2)
    assert expected_calibration_error(two_labels(0.59, 0.6), labels, bins=5) == pytest.approx(abs(1 - 1.19) / 2)


@given(st.integers(1, 60), st.integers(2, 4), st.integers(1, 20), st.integers(0, 1000))
@settings(deadline=None)
def test_it_is_the_sum_over_bins(n, label_count, bins, seed):
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(label_count), n), rng.integers(0, label_count, n)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(total, abs=1e-12)
