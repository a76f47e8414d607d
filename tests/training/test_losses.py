import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from llmft.models.wrapping import index_on
from llmft.training.losses import answer_cross_entropy, label_cross_entropy, t_few_loss

SIZES = st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0, 5.0]))


def draw(batch, labels, seed):
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((batch, labels)), 3 * rng.standard_normal((batch, labels))


def test_answer_cross_entropy_is_over_the_whole_vocabulary():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))
    expected = -(np.log(0.7) + np.log(0.25)) / 2
    assert answer_cross_entropy(logits, torch.tensor([2, 1])).item() == pytest.approx(expected, abs=1e-6)


LOGITS = st.tuples(st.integers(1, 5), st.integers(2, 4), st.integers(0, 10_000))


def draw_answers(batch, labels, seed):
    """Logits over a vocabulary of 9, `labels` label tokens of it in any order, and right answers."""
    rng = np.random.default_rng(seed)
    label_ids = rng.permutation(9)[:labels].tolist()
    return 3 * rng.standard_normal((batch, 9)), np.array(label_ids)[rng.integers(labels, size=batch)], label_ids


@given(LOGITS)
def test_t_few_is_the_sum_of_its_three_equations(size):
    logits, answers, label_ids = draw_answers(*size)
    p = softmax(logits, axis=1)
    expected = []
    for row, answer in zip(p, answers, strict=True):
        wrong = [label for label in label_ids if label != answer]
        lm = -np.log(row[answer])
        ul = -sum(np.log(1 - row[label]) for label in wrong) / len(wrong)
        ln = -np.log(np.exp(np.log(row[answer])) / sum(np.exp(np.log(row[label])) for label in label_ids))
        expected.append(lm + ul + ln)
    found = t_few_loss(torch.tensor(logits), torch.tensor(answers), label_ids)
    assert found.item() == pytest.approx(np.mean(expected), abs=1e-9)


@given(LOGITS)
def test_label_cross_entropy_is_over_the_label_tokens_alone(size):
    logits, answers, label_ids = draw_answers(*size)
    logprobs = log_softmax(logits[:, label_ids], axis=1)
    expected = -np.mean([row[label_ids.index(answer)] for row, answer in zip(logprobs, answers, strict=True)])
    found = label_cross_entropy(torch.tensor(logits), torch.tensor(answers), label_ids)
    assert found.item() == pytest.approx(expected, abs=1e-10)
    others = [token for token in range(9) if token not in label_ids]
    logits[:, others] += 50  # other tokens do not count
    assert label_cross_entropy(torch.tensor(logits), torch.tensor(answers), label_ids).item() == pytest.approx(found.item())


@given(LOGITS, st.sampled_from([t_few_loss, label_cross_entropy]))
@settings(max_examples=20, deadline=None)
def test_gradients_over_labels_are_those_of_the_loss(size, loss):
    logits, answers, label_ids = draw_answers(*size)
    logits, answers = torch.tensor(logits, requires_grad=True), torch.tensor(answers)
    assert torch.autograd.gradcheck(lambda x: loss(x, answers, label_ids), logits)


def test_t_few_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))
    lm = -(np.log(0.7) + np.log(0.25)) / 2
    ul = -(np.log(1 - 0.2) + np.log(1 - 0.25)) / 2  # token 1, then token 2 is the wrong label
    ln = -(np.log(0.7 / 0.9) + np.log(0.25 / 0.5)) / 2
    assert t_few_loss(logits, torch.tensor([2, 1]), [1, 2]).item() == pytest.approx(lm + ul + ln, abs=1e-6)


def test_t_few_is_finite_where_the_wrong_label_has_all_the_probability():
    logits = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)  # p rounds to 1
    loss = t_few_loss(logits, torch.tensor([2]), [1, 2])
    loss.backward()
    assert loss.item() == pytest.approx(200 + (200 - np.log(2)) + 200, abs=1e-3)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 1] > 0  # down with it


@pytest.mark.parametrize("loss", [t_few_loss, label_cross_entropy])
def test_no_loss_waits_for_the_device(loss):
    logits = torch.empty(3, 9, device="meta", requires_grad=True)  # without values, which the host must not read
    loss(logits, torch.empty(3, dtype=torch.int64, device="meta"), [4, 2]).backward()
    assert logits.grad.shape == (3, 9)


def test_indices_are_put_on_a_device_once():
    found = index_on(torch.device("cpu"), (4, 2))
    assert found.tolist() == [4, 2]
    assert found is index_on(torch.device("cpu"), (4, 2))
