from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from llmft.errors import InputError
from llmft.evaluation.labels import agreement, gap_recovered, label_prior, mean_kl, renormalise, split_metrics
from llmft.evaluation.metrics import shipped_metrics
from llmft.evaluation.scorer import SplitScores
from llmft.runs.summary import pooled
from llmft.tasks.table import TASKS, get_task


def scores(token_logprobs, label_logprobs, best_token, labels):
    n = len(labels)
    return SplitScores(
        np.arange(n), np.array(labels), [7, 9], np.log(token_logprobs), np.log(label_logprobs), np.array(best_token), 5.0
    )


def test_split_metrics_by_hand():
    found = split_metrics(
        scores(
            [[0.2, 0.1], [0.3, 0.6], [0.1, 0.05]], [[0.6, 0.4], [0.3, 0.7], [0.7, 0.3]], best_token=[7, 9, 3], labels=[0, 0, 0]
        )
    )
    assert found == {
        "accuracy": pytest.approx(1 / 3),  # row 0: token 7 is the best of all; row 1: 9; row 2: a token of no label
        "score_accuracy": pytest.approx(2 / 3),
        "loss": pytest.approx(-np.log([0.2, 0.3, 0.1]).mean()),
        "ece": pytest.approx(abs(0.6 - 1) / 3 + abs((0.7 - 0) + (0.7 - 1)) / 3),  # 0.7 twice, right once: one bin
        "n": 3,
        "n_asked": 3,
        "n_shortened": 0,
    }


def test_the_tasks_own_metrics_by_hand():
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    # labels 1 1 1 0 0, predictions 1 1 0 1 0: two true positives, one false one, one missed, one true negative
    found = scores([right] * 5, [wrong, wrong, right, wrong, right], best_token=[7] * 5, labels=[1, 1, 1, 0, 0])
    metrics = split_metrics(replace(found, task_metrics=("f1", "matthews_correlation")))
    assert metrics["f1"] == pytest.approx(4 / 6)
    assert metrics["matthews_correlation"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))
    assert set(metrics) - set(split_metrics(found)) == {"f1", "matthews_correlation"}


def test_the_tasks_own_metrics_where_there_is_one_class():
    right = [0.9, 0.1]
    found = scores([right] * 2, [right] * 2, best_token=[7] * 2, labels=[0, 0])
    metrics = split_metrics(replace(found, task_metrics=("f1", "matthews_correlation")))
    assert (metrics["f1"], metrics["matthews_correlation"]) == (0.0, 0.0)


def test_the_tables_metrics_exist():
    named = {name for task in TASKS for s in get_task(task).row_sets for name in s.metrics}
    assert named == set(shipped_metrics())


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
    found = scores([right, wrong], [right, wrong], best_token=[7] * 2, labels=[0, 0])
    metrics = split_metrics(replace(found, task_metrics=(str(file),)))
    assert (metrics["errors"], metrics["errors_loss"]) == (1.0, 2.5)  # its loss does not replace the loss
    assert metrics["loss"] == pytest.approx(-np.log([0.9, 0.1]).mean()) and "kind" not in metrics


@pytest.mark.parametrize(
    ("result", "message"), [("1 / 0", "fails on 1 predictions (ZeroDivisionError"), ("{}", "gives no number")]
)
def test_a_module_that_fails_is_named(tmp_path, result, message):
    file = tmp_path / f"module{len(result)}.py"
    file.write_text(MODULE.replace("RESULT", result))
    found = scores([[0.9, 0.1]], [[0.9, 0.1]], best_token=[7], labels=[0])
    with pytest.raises(InputError, match="--metric") as error:
        split_metrics(replace(found, task_metrics=(str(file),)))
    assert message in str(error.value)


@given(st.integers(1, 20), st.integers(2, 5), st.integers(0, 10_000))
def test_renormalised_probabilities_add_up(n, labels, seed):
    logprobs = np.random.default_rng(seed).normal(-5, 3, (n, labels))
    np.testing.assert_allclose(renormalise(logprobs), log_softmax(logprobs, axis=1), atol=1e-12)


def test_calibration_divides_out_the_prior():
    # content-free queries answer (0.8, 0.2); a query that answers the same holds no evidence either way
    prior = label_prior(np.log([[0.4, 0.1], [0.08, 0.02]]))
    np.testing.assert_allclose(prior, [0.8, 0.2])
    np.testing.assert_allclose(np.exp(renormalise(np.log([[0.4, 0.1], [0.3, 0.3]]), prior)), [[0.5, 0.5], [0.2, 0.8]])


def test_kl_and_agreement_by_hand():
    teacher, student = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    assert mean_kl(teacher, student) == pytest.approx(0.143841 / 2, abs=1e-6)
    assert agreement(np.log([[0.6, 0.4], [0.9, 0.1]]), student) == 0.5


def test_gap_recovered():
    assert gap_recovered(teacher=0.9, before=0.5, after=0.7) == pytest.approx(0.5)
    assert gap_recovered(teacher=0.5, before=0.5, after=0.7) is None


def test_pooled_counts_rows_not_sets():
    metrics = {"a": {"score_accuracy": 1.0, "n": 1}, "b": {"score_accuracy": 0.5, "n": 3}}
    assert pooled(metrics, ["a", "b"], "score_accuracy") == pytest.approx(0.625)
    assert pooled(metrics, [], "score_accuracy") is None
    assert pooled(metrics, ["a", "c"], "score_accuracy") is None  # a set that this stage did not score
