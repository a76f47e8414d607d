from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from llmft.errors import InputError
from llmft.evaluation.labels import Labels, expected_calibration_error, label_prior, renormalise
from llmft.evaluation.metrics import shipped_metrics
from llmft.evaluation.scores import Headline, Scores
from llmft.models.reading.continuations import LabelSequences
from llmft.pipelines.prepare import try_metrics
from llmft.runs.summary import pooled
from llmft.tasks.table import TASKS, get_task

LABELS = Labels(LabelSequences.create([[7], [9]]))


def scores(token_probabilities, best_token, labels):
    rows = [{"idx": i, "label": label} for i, label in enumerate(labels)]
    arrays = {"label_logprobs": np.log(token_probabilities), "best_token": np.array(best_token)}
    return Scores(LABELS.columns(rows, arrays), 5.0)


def test_metrics_by_hand():
    metrics = LABELS.metrics(scores([[0.18, 0.12], [0.3, 0.7], [0.07, 0.03]], best_token=[7, 9, 3], labels=[0, 0, 0]))
    assert metrics == {
        "accuracy": pytest.approx(1 / 3),  # row 0: token 7 is the best of all; row 1: 9; row 2: a token of no label
        "score_accuracy": pytest.approx(2 / 3),
        "loss": pytest.approx(-np.log([0.18, 0.3, 0.07]).mean()),
        "ece": pytest.approx(abs(0.6 - 1) / 3 + abs((0.7 - 0) + (0.7 - 1)) / 3),  # 0.7 twice, right once: one bin
        "n": 3,
        "n_asked": 3,
        "n_shortened": 0,
    }


def test_the_tasks_own_metrics_by_hand():
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    # labels 1 1 1 0 0, predictions 1 1 0 1 0: two true positives, one false one, one missed, one true negative
    rows = scores([wrong, wrong, right, wrong, right], best_token=[7] * 5, labels=[1, 1, 1, 0, 0])
    metrics = LABELS.metrics(rows, ("f1", "matthews_correlation"))
    assert metrics["f1"] == pytest.approx(4 / 6)
    assert metrics["matthews_correlation"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))
    assert set(metrics) - set(LABELS.metrics(rows)) == {"f1", "matthews_correlation"}


def test_the_tasks_own_metrics_where_there_is_one_class():
    right = [0.9, 0.1]
    metrics = LABELS.metrics(scores([right] * 2, best_token=[7] * 2, labels=[0, 0]), ("f1", "matthews_correlation"))
    assert (metrics["f1"], metrics["matthews_correlation"]) == (0.0, 0.0)


def test_the_tables_metrics_exist():
    tasks = [get_task(name) for name in TASKS]
    named = {name for task in tasks if task.answer == "label" for s in task.row_sets for name in s.metrics}
    assert named == set(shipped_metrics("label"))


MODULE = """
import datasets
import evaluate


class Errors(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return RESULT
"""


def test_a_module_of_the_users_own(tmp_path):
    file = tmp_path / "errors.py"
    count = "{'errors': sum(p != r for p, r in zip(predictions, references)), 'loss': 2.5, 'kind': 'text'}"
    file.write_text(MODULE.replace("RESULT", count))
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    metrics = LABELS.metrics(scores([right, wrong], best_token=[7] * 2, labels=[0, 0]), [str(file)])
    assert (metrics["errors"], metrics["errors_loss"]) == (1.0, 2.5)  # its loss does not replace the loss
    assert metrics["loss"] == pytest.approx(-np.log([0.9, 0.1]).mean()) and "kind" not in metrics


@pytest.mark.parametrize(
    ("result", "message"), [("1 / 0", "fails on 1 predictions (ZeroDivisionError"), ("{}", "gives no number")]
)
def test_a_module_that_fails_is_named(tmp_path, result, message):
    file = tmp_path / f"module{len(result)}.py"
    file.write_text(MODULE.replace("RESULT", result))
    with pytest.raises(InputError, match="--metric") as error:
        LABELS.metrics(scores([[0.9, 0.1]], best_token=[7], labels=[0]), [str(file)])
    assert message in str(error.value)


def test_a_metric_that_does_not_suit_the_task_is_refused_before_the_work():
    try_metrics(get_task("qqp"))  # has F1 of two labels
    with pytest.raises(InputError, match=r"^--metric f1: fails on 4 predictions \(ValueError: Target is multiclass"):
        try_metrics(replace(get_task("ag_news"), metrics=("f1",)))


@given(st.integers(1, 20), st.integers(2, 5), st.integers(0, 10_000))
def test_renormalised_probabilities_add_up(n, labels, seed):
    logprobs = np.random.default_rng(seed).normal(-5, 3, (n, labels))
    np.testing.assert_allclose(renormalise(logprobs), log_softmax(logprobs, axis=1), atol=1e-12)
    read = {"token_logprobs": torch.from_numpy(logprobs)}
    answers = Labels(LabelSequences.create([[label] for label in range(labels)]))
    on_device = answers.labels(read, answers.log_prior(read))
    np.testing.assert_allclose(on_device, renormalise(logprobs, label_prior(logprobs)), rtol=1e-7, atol=1e-7)


def test_calibration_divides_out_the_prior():
    # content-free queries give (0.8, 0.2); a query with the same answer has no evidence either way
    prior = label_prior(np.log([[0.4, 0.1], [0.08, 0.02]]))
    np.testing.assert_allclose(prior, [0.8, 0.2])
    np.testing.assert_allclose(np.exp(renormalise(np.log([[0.4, 0.1], [0.3, 0.3]]), prior)), [[0.5, 0.5], [0.2, 0.8]])


def test_kl_and_agreement_by_hand():
    even, student = [[0.5, 0.5], [0.9, 0.1]], [[0.25, 0.75], [0.9, 0.1]]
    even, student, first = (scores(one, [7, 7], [0, 0]) for one in (even, student, [[0.6, 0.4], [0.9, 0.1]]))
    assert LABELS.divergence(even, student)["kl"] == pytest.approx(0.143841 / 2, abs=1e-6)
    assert LABELS.divergence(first, student)["agreement"] == 0.5


def test_gap_recovered():
    assert LABELS.headline.gap_recovered(teacher=0.9, before=0.5, after=0.7) == pytest.approx(0.5)
    assert LABELS.headline.gap_recovered(teacher=0.5, before=0.5, after=0.7) is None
    loss = Headline("loss", higher_is_better=False)
    assert loss.gap_recovered(teacher=1.0, before=3.0, after=1.5) == pytest.approx(0.75)
    assert loss.gap_recovered(teacher=3.0, before=1.0, after=1.0) is None


def test_pooled_counts_rows_not_sets():
    metrics = {"a": {"score_accuracy": 1.0, "n": 1}, "b": {"score_accuracy": 0.5, "n": 3}}
    assert pooled(metrics, ["a", "b"], "score_accuracy") == pytest.approx(0.625)
    assert pooled(metrics, [], "score_accuracy") is None
    assert pooled(metrics, ["a", "c"], "score_accuracy") is None  # a set that this stage did not score


def two_labels(*first):
    return np.array([[p, 1 - p] for p in first])


def test_the_calibration_error_by_hand():
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
