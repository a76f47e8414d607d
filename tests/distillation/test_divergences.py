import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, rel_entr

from llmft.arguments.objective import DIVERGENCES, SUPPORTS, Objective
from llmft.distillation.divergences import distillation_loss, divergence_loss, forward_kl, jensen_shannon, reverse_kl
from llmft.distillation.targets import support_scores, support_targets, tempered
from llmft.errors import InputError
from llmft.training.losses import answer_cross_entropy

SIZES = st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(0, 10_000), st.sampled_from([0.3, 3.0, 30.0]))
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 5.0])
BETAS = st.sampled_from([0.1, 0.5, 0.9])
SETTINGS = settings(max_examples=40, deadline=None)
LABELS = [4, 1]


def draw(rows, classes, seed, scale, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return [torch.tensor(scale * rng.standard_normal((rows, classes)), dtype=dtype) for _ in range(2)]


def divergence(name, beta=0.5):
    return {"forward": forward_kl, "reverse": reverse_kl, "jsd": lambda p, q: jensen_shannon(p, q, beta)}[name]


TEMPERED = [support for support in SUPPORTS if support != "sampled"]
"""Supports that go with every divergence and temperature."""


def objective(name, beta=0.5, **choices):
    return Objective(divergence=name, **({"jsd_beta": beta} if name == "jsd" else {}), **choices)


def reference(name, teacher, student, beta=0.5):
    """Textbook sums (B,) of probabilities p and q, in float64."""
    p, q = np.exp(log_softmax(np.asarray(teacher, float), -1)), np.exp(log_softmax(np.asarray(student, float), -1))
    if name == "forward":
        return rel_entr(p, q).sum(-1)
    if name == "reverse":
        return rel_entr(q, p).sum(-1)
    m = beta * p + (1 - beta) * q
    return beta * rel_entr(p, m).sum(-1) + (1 - beta) * rel_entr(q, m).sum(-1)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(SIZES, TEMPERATURES, BETAS)
@SETTINGS
def test_the_textbook_formulas(name, dtype, size, temperature, beta):
    teacher, student = draw(*size[:3], min(size[3], 3.0), dtype)
    expected = temperature**2 * reference(name, teacher.double() / temperature, student.double() / temperature, beta).mean()
    found = divergence_loss(objective(name, beta, temperature=temperature), teacher.log_softmax(-1), student)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(expected, abs=1e-6 * temperature**2 if dtype == torch.float32 else 1e-12, rel=1e-6)


def test_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[0.25, 0.75]]).double().log()
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75); 0.25 ln(0.25 / 0.5) + 0.75 ln(0.75 / 0.5)
    assert forward_kl(p, q).item() == pytest.approx(0.143841036, abs=1e-8)
    assert reverse_kl(p, q).item() == pytest.approx(0.130812036, abs=1e-8)
    # m = (0.375, 0.625): 0.5 (0.5 ln(0.5/0.375) + 0.5 ln(0.5/0.625)) + 0.5 (0.25 ln(0.25/0.375) + 0.75 ln(0.75/0.625))
    assert jensen_shannon(p, q, 0.5).item() == pytest.approx(0.033822076, abs=1e-8)


@pytest.mark.parametrize("name", DIVERGENCES)
@given(SIZES, TEMPERATURES, BETAS)
@SETTINGS
def test_equal_distributions_have_exactly_no_loss_and_no_gradient(name, size, temperature, beta):
    _, student = draw(*size, dtype=torch.float32)
    student.requires_grad_()
    loss = divergence_loss(objective(name, beta, temperature=temperature), student.detach(), student)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("name", DIVERGENCES)
@given(SIZES, TEMPERATURES, BETAS)
@SETTINGS
def test_never_negative_and_shifts_do_not_count(name, size, temperature, beta):
    teacher, student = draw(*size)
    choices = objective(name, beta, temperature=temperature)
    loss = divergence_loss(choices, teacher, student).item()
    assert loss >= -1e-12
    assert divergence_loss(choices, teacher, student + 7).item() == pytest.approx(loss, abs=1e-10)
    assert divergence_loss(choices, teacher - 3, student).item() == pytest.approx(loss, abs=1e-10)


@given(SIZES, BETAS)
@SETTINGS
def test_forward_and_reverse_are_each_other_turned_round_and_jsd_too(size, beta):
    teacher, student = (x.log_softmax(-1) for x in draw(*size))
    torch.testing.assert_close(forward_kl(teacher, student), reverse_kl(student, teacher))
    torch.testing.assert_close(jensen_shannon(teacher, student, beta), jensen_shannon(student, teacher, 1 - beta))


@given(SIZES)
@SETTINGS
def test_forward_and_reverse_differ_by_the_third_order_in_the_students_distance(size):
    """For q ~ p exp(s a), the difference is the error of the trapezoid rule for the mean of a from 0 to s: s^3 / 6 times a third
    central moment of a, which is at most (max a - min a)^3 / (6 sqrt 3)."""
    teacher, away = draw(*size[:3], 1.0)
    p, most = teacher.log_softmax(-1), (away.amax(-1) - away.amin(-1)) ** 3 / (36 * math.sqrt(3))
    for step in (0.1, 0.01, 0.001):
        q = (teacher + step * away).log_softmax(-1)
        assert ((forward_kl(p, q) - reverse_kl(p, q)).abs() <= step**3 * most + 1e-14).all()


@given(SIZES, BETAS)
@SETTINGS
def test_jsd_lies_between_zero_and_the_entropy_of_beta(size, beta):
    teacher, student = (x.log_softmax(-1) for x in draw(*size))
    found = jensen_shannon(teacher, student, beta)
    assert (found >= -1e-12).all()
    assert (found <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) + 1e-12).all()


def test_jsd_by_beta_tends_to_the_kls():
    teacher, student = (x.log_softmax(-1) for x in draw(5, 4, 0, 1.0))
    torch.testing.assert_close(jensen_shannon(teacher, student, 1e-6) / 1e-6, forward_kl(teacher, student), rtol=1e-4, atol=0)
    torch.testing.assert_close(jensen_shannon(teacher, student, 1 - 1e-6) / 1e-6, reverse_kl(teacher, student), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("support", TEMPERED)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_gradient_is_that_of_the_loss(name, support, temperature):
    teacher, student = draw(3, 6, 1, 2.0)
    choices = objective(
        name, 0.3, support=support, temperature=temperature, ce_weight=0.7, **({"topk": 2} if support == "topk" else {})
    )
    target = support_targets(teacher, support, label_ids=LABELS, topk=2)
    tokens = LABELS if target.tokens is None else target.tokens
    answers = torch.tensor([4, 1, 4])
    assert torch.autograd.gradcheck(
        lambda logits: distillation_loss(choices, logits, target.logprobs, tokens, answers), student.requires_grad_()
    )


EMPTY = [[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_class_that_is_empty_for_both_counts_for_nothing(name):
    teacher, student = torch.tensor([[1.0, 2.0, -torch.inf]]), torch.tensor([[2.0, 0.5, -torch.inf]], requires_grad=True)
    found = divergence_loss(objective(name), teacher.log_softmax(-1), student)
    found.backward()
    part = student.detach()[:, :2].requires_grad_()
    expected = divergence_loss(objective(name), teacher[:, :2].log_softmax(-1), part)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-7)
    torch.testing.assert_close(student.grad, torch.cat([part.grad, torch.zeros(1, 1)], 1))


def test_a_class_that_is_empty_for_one():
    p, q = torch.tensor(EMPTY, dtype=torch.float64).log()[:, None]
    assert forward_kl(p, q).item() == pytest.approx(rel_entr(*EMPTY).sum())
    assert reverse_kl(q, p).item() == pytest.approx(rel_entr(*EMPTY).sum())
    assert forward_kl(q, p).item() == reverse_kl(p, q).item() == math.inf
    for one, other in ((p, q), (q, p)):
        expected = reference("jsd", one.numpy(), other.numpy(), 0.3)
        assert jensen_shannon(one, other, 0.3).item() == pytest.approx(expected.item())


def test_a_teacher_with_an_empty_class_gives_the_student_a_finite_gradient():
    teacher, student = torch.tensor(EMPTY[:1]).log(), torch.tensor([[0.3, 0.1, 0.9]], requires_grad=True)
    for name in ("forward", "jsd"):
        (gradient,) = torch.autograd.grad(divergence_loss(objective(name), teacher, student), student)
        assert gradient.isfinite().all()
        assert gradient[0, 2] > 0  # mass is to leave it


@pytest.mark.parametrize("name", DIVERGENCES)
@given(SIZES, TEMPERATURES)
@SETTINGS
def test_all_tokens_chosen_is_the_whole_vocabulary(name, size, temperature):
    teacher, student = draw(*size)
    gradients, losses = [], []
    for support in ("topk", "vocab"):
        own = {"topk": size[1]} if support == "topk" else {}
        target = support_targets(teacher, support, label_ids=[], topk=size[1])
        logits = student.clone().requires_grad_()
        loss = distillation_loss(
            objective(name, temperature=temperature, support=support, **own), logits, target.logprobs, target.tokens
        )
        loss.backward()
        losses.append(loss.item())
        gradients.append(logits.grad)
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


def test_the_cross_entropy_joins_with_its_weight():
    teacher, student = draw(4, 6, 0, 1.0)
    target = support_targets(teacher, "labels", label_ids=LABELS, topk=1).logprobs
    answers = torch.tensor([4, 1, 1, 4])
    alone = distillation_loss(Objective(), student, target, LABELS)
    both = distillation_loss(Objective(ce_weight=0.25), student, target, LABELS, answers)
    torch.testing.assert_close(both, alone + 0.25 * answer_cross_entropy(student, answers))
    with pytest.raises(InputError, match=r"--ce_weight 0\.25: the queries have no gold labels"):
        distillation_loss(Objective(ce_weight=0.25), student, target, LABELS)


def test_half_precision_is_computed_in_float32():
    teacher, student = draw(3, 20, 0, 3.0)
    for support in SUPPORTS:
        choices = Objective(support=support, **({"topk": 5} if support == "topk" else {}))
        target = support_targets(teacher.bfloat16(), support, label_ids=LABELS, topk=5)
        assert target.logprobs.dtype == torch.float32
        tokens = LABELS if target.tokens is None else target.tokens
        exact = distillation_loss(choices, student.bfloat16().double(), target.logprobs.double(), tokens)
        assert distillation_loss(choices, student.bfloat16(), target.logprobs, tokens).item() == pytest.approx(
            exact.item(), rel=1e-5
        )


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_logits_far_apart(shift):
    student = torch.tensor([[shift, shift - 300.0, shift - 600.0, shift + 5]], requires_grad=True)
    teacher = torch.tensor([[-300.0, 0.0, 5.0, 1.0]])
    for name in DIVERGENCES:
        loss = divergence_loss(objective(name), teacher, student)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all()
        expected = reference(name, teacher.double(), student.detach().double()).mean()
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_tempered_is_what_scipy_says():
    scores = draw(3, 5, 0, 2.0)[0]
    expected = scores.numpy() / 2.5 - logsumexp(scores.numpy() / 2.5, -1, keepdims=True)
    np.testing.assert_allclose(tempered(scores, 2.5), expected, atol=1e-12)
    assert support_scores(scores, "vocab", None) is scores


TEXTS = torch.tensor([3, 1, 4])  # tokens of each example
WEIGHTS = {"tokens": torch.full((8,), 1 / 8).double(), "examples": (1 / (3 * TEXTS.double())).repeat_interleave(TEXTS)}


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("support", TEMPERED)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("loss_mean", WEIGHTS)
def test_positions_count_as_weighted(name, support, temperature, loss_mean):
    teacher, student = draw(8, 6, 2, 2.0)
    choices = objective(name, temperature=temperature, support=support, **({"topk": 2} if support == "topk" else {}))
    target = support_targets(teacher, support, label_ids=LABELS, topk=2)
    tokens = LABELS if target.tokens is None else target.tokens
    weights = WEIGHTS[loss_mean]
    classes = support_scores(student, support, tokens)
    positions = temperature**2 * reference(name, target.logprobs / temperature, classes / temperature)
    parts = [part.mean() for part in np.split(positions, TEXTS.cumsum(0)[:-1].tolist())]
    expected = positions.mean() if loss_mean == "tokens" else np.mean(parts)
    found = distillation_loss(choices, student, target.logprobs, tokens, weights=weights)
    assert found.item() == pytest.approx(expected, rel=1e-9)

    alike = teacher.clone().requires_grad_()
    loss = distillation_loss(choices, alike, target.logprobs, tokens, weights=weights)
    (gradient,) = torch.autograd.grad(loss, alike)
    assert abs(loss.item()) < 1e-15
    assert gradient.abs().max() < 1e-15


def test_equal_weights_are_the_mean():
    teacher, student = draw(8, 6, 2, 2.0)
    choices, answers = Objective(ce_weight=0.5), torch.tensor([4, 1] * 4)
    target = support_targets(teacher, "labels", label_ids=LABELS, topk=1).logprobs
    found = [distillation_loss(choices, student, target, LABELS, answers, w) for w in (None, WEIGHTS["tokens"])]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
