import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from llmft.distillation.targets import mean_logprobs, support_scores, support_targets, tempered
from llmft.errors import InputError

VOCABULARY = 40
LABELS = [7, 3, 21]
SETTINGS = settings(max_examples=40, deadline=None)
LOGITS = st.tuples(st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([0.1, 3.0, 30.0]))


def draw(rows, seed, scale):
    return scale * np.random.default_rng(seed).standard_normal((rows, VOCABULARY))


def expected_target(logits, support, k):
    """Log-probabilities on the support, in float64, the bucket summed token by token."""
    logprobs = log_softmax(np.asarray(logits, np.float64), -1)
    if support == "vocab":
        return logprobs
    if support == "labels":
        return log_softmax(logprobs[:, LABELS], -1)
    rows = []
    for row in logprobs:
        chosen = LABELS if support == "labels_rest" else np.argsort(-row, kind="stable")[:k].tolist()
        rest = logsumexp([row[i] for i in range(VOCABULARY) if i not in chosen])
        rows.append([*row[chosen], rest])
    return np.array(rows)


SUPPORTS = ("labels", "labels_rest", "topk", "vocab")


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@given(LOGITS, st.integers(1, VOCABULARY - 1), st.sampled_from([0.5, 1.0, 4.0]))
@SETTINGS
def test_mass_is_one_and_each_class_has_its_own(support, dtype, tolerance, size, k, temperature):
    logits = torch.tensor(draw(*size), dtype=dtype)
    target = support_targets(logits, support, label_ids=LABELS, topk=k)
    width = {"labels": 3, "labels_rest": 4, "topk": k + 1, "vocab": VOCABULARY}[support]
    assert target.logprobs.shape == (len(logits), width)
    assert target.logprobs.dtype == dtype
    assert (target.logprobs.exp().sum(-1) - 1).abs().max() < tolerance
    assert (tempered(target.logprobs, temperature).exp().sum(-1) - 1).abs().max() < tolerance
    np.testing.assert_allclose(target.logprobs, expected_target(logits, support, k), rtol=10 * tolerance, atol=10 * tolerance)
    assert (target.tokens is not None) == (support == "topk")


@given(LOGITS, st.integers(1, VOCABULARY))
@SETTINGS
def test_student_and_teacher_are_put_on_the_same_classes(size, k):
    logits = torch.tensor(draw(*size))
    for support in SUPPORTS:
        target = support_targets(logits, support, label_ids=LABELS, topk=k)
        tokens = LABELS if target.tokens is None else target.tokens
        scores = support_scores(logits + 11, support, tokens)  # a constant has no effect
        torch.testing.assert_close(tempered(scores, 1.0), target.logprobs, atol=1e-9, rtol=1e-9)


def test_the_k_largest_come_in_order():
    logits = torch.tensor(draw(3, 0, 1.0))
    target = support_targets(logits, "topk", label_ids=[], topk=5)
    assert target.tokens.tolist() == np.argsort(-logits.numpy(), axis=-1)[:, :5].tolist()
    assert (target.logprobs[:, :4] >= target.logprobs[:, 1:5]).all()


@pytest.mark.parametrize("gap", [20.0, 60.0])
def test_a_tiny_bucket_keeps_its_digits(gap):
    """1 - sum would say 0 here, or some multiple of the rounding error."""
    logits = torch.full((1, VOCABULARY), -gap)
    logits[0, 5] = 0.0
    logprobs = support_targets(logits, "topk", label_ids=[], topk=1).logprobs
    assert logprobs[0, 1].item() == pytest.approx(np.log(VOCABULARY - 1) - gap, rel=1e-6)


def test_a_huge_bucket_leaves_the_labels_their_digits():
    logits = torch.zeros(1, VOCABULARY)
    logits[0, LABELS] = -50.0
    logprobs = support_targets(logits, "labels_rest", label_ids=LABELS, topk=1).logprobs
    assert logprobs[0, :3].tolist() == pytest.approx([-50 - np.log(VOCABULARY - 3)] * 3)


def test_an_empty_bucket_has_no_mass_and_no_gradient():
    logits = torch.tensor(draw(2, 0, 1.0), requires_grad=True)
    target = support_targets(logits.detach(), "topk", label_ids=[], topk=VOCABULARY)
    assert (target.logprobs[:, -1] == -torch.inf).all()
    scores = support_scores(logits, "topk", target.tokens)
    tempered(scores, 2.0)[:, :-1].square().sum().backward()
    assert logits.grad.isfinite().all()


def test_tokens_that_cannot_come_leave_the_bucket_empty():
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, LABELS] = torch.tensor([1.0, 2.0, 3.0])
    logits.requires_grad_()
    scores = support_scores(logits, "labels_rest", LABELS)
    assert scores.tolist() == [[1.0, 2.0, 3.0, -torch.inf]]
    (gradient,) = torch.autograd.grad(tempered(scores, 1.0)[:, 0].sum(), logits)
    assert gradient.isfinite().all()


def test_more_tokens_than_there_are():
    with pytest.raises(InputError, match=f"--topk {VOCABULARY + 1}: the vocabulary has {VOCABULARY} tokens"):
        support_targets(torch.zeros(1, VOCABULARY), "topk", label_ids=[], topk=VOCABULARY + 1)


def test_one_target_serves_every_temperature_where_the_support_has_no_bucket():
    logits = torch.tensor(draw(3, 0, 2.0))
    for support, chosen in (("labels", LABELS), ("vocab", list(range(VOCABULARY)))):
        kept = support_targets(logits, support, label_ids=LABELS, topk=1).logprobs
        torch.testing.assert_close(tempered(kept, 3.0), (logits / 3.0)[:, chosen].log_softmax(-1))


@pytest.mark.parametrize("teachers", [1, 2, 5])
def test_mean_of_several_teachers(teachers):
    logprobs = log_softmax(np.random.default_rng(0).normal(size=(teachers, 3, 6)) * 30, -1)
    found = mean_logprobs(torch.tensor(logprobs))
    np.testing.assert_allclose(found, np.log(np.exp(logprobs).mean(0)), atol=1e-12)
    assert (found.exp().sum(-1) - 1).abs().max() < 1e-12


def test_mean_where_some_or_all_leave_a_class_empty():
    logprobs = torch.tensor([[[0.5, 0.5, 0.0]], [[1.0, 0.0, 0.0]]]).log()
    assert mean_logprobs(logprobs).exp().tolist() == [pytest.approx([0.75, 0.25, 0.0])]


def test_the_mean_may_be_taken_before_or_after_where_that_is_said():
    logprobs = torch.tensor(draw(4, 0, 2.0)).reshape(2, 2, VOCABULARY).log_softmax(-1)
    for support in ("labels_rest", "vocab"):
        first = support_targets(mean_logprobs(logprobs), support, label_ids=LABELS, topk=1).logprobs
        each = torch.stack([support_targets(x, support, label_ids=LABELS, topk=1).logprobs for x in logprobs])
        torch.testing.assert_close(mean_logprobs(each), first)
