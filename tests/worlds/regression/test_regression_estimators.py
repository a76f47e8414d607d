"""dMMSE and ridge against the formulas written out naively, and what follows from their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from llmft.worlds.regression import estimators
from llmft.worlds.regression.estimators import distance_by_position, dmmse, place_between, ridge
from llmft.worlds.regression.tasks import FRESH, Problem, draw_pools, draw_sequences, seeded_generator

SETTINGS = settings(max_examples=40, deadline=None)
DIMENSIONS, EXAMPLES, SEEDS = st.integers(1, 8), st.integers(1, 18), st.integers(0, 10**6)
NOISE = st.sampled_from([0.0, 1e-20, 1e-12, 1e-6, 1e-3, 0.125, 1.0, 1e3])


def drawn(dimension, examples, noise, size, seed, batch=3):
    """A pool of doubles and sequences of its tasks."""
    pools = draw_pools([size], dimension, seed)
    sequences = draw_sequences(pools, Problem(dimension, examples, noise), batch, seeded_generator(seed))
    return pools[0] if pools[0] is None else pools[0].double(), sequences.x.double(), sequences.labels[0].double()


def naive_dmmse(x, y, pool, noise):
    """Eq. 2, word by word; without noise its limit, the mean of the tasks with the smallest residual."""
    predictions = np.empty(y.shape)
    for b in range(len(x)):
        for k in range(x.shape[1]):
            squares = [sum((y[b, j] - w @ x[b, j]) ** 2 for j in range(k)) for w in pool]
            above = np.array(squares) - min(squares)
            weights = np.exp(-above / (2 * noise)) if noise else (above == 0).astype(float)
            predictions[b, k] = (weights / weights.sum()) @ pool @ x[b, k]
    return predictions


def naive_ridge(x, y, noise):
    """Eq. 3, word by word; for next to no noise its limit, the least-squares solution of the smallest norm."""
    predictions = np.zeros(y.shape)
    for b in range(len(x)):
        for k in range(1, x.shape[1]):
            before, labels = x[b, :k], y[b, :k]
            if noise > 1e-12:
                task = np.linalg.solve(before.T @ before + noise * np.eye(x.shape[2]), before.T @ labels)
            else:
                task = np.linalg.lstsq(before, labels, rcond=None)[0]
            predictions[b, k] = task @ x[b, k]
    return predictions


@given(DIMENSIONS, EXAMPLES, NOISE, st.integers(1, 40), SEEDS, st.sampled_from([1, 7, 100, 2**22]))
@SETTINGS
def test_dmmse_is_the_naive_formula_however_it_is_cut_up(dimension, examples, noise, size, seed, block):
    pool, x, y = drawn(dimension, examples, noise, size, seed)
    expected = naive_dmmse(x.numpy(), y.numpy(), pool.numpy(), noise)
    np.testing.assert_allclose(dmmse(x, y, pool, noise, block).numpy(), expected, atol=1e-7)


@given(DIMENSIONS, EXAMPLES, NOISE, SEEDS)
@SETTINGS
def test_ridge_is_the_naive_formula(dimension, examples, noise, seed):
    _, x, y = drawn(dimension, examples, noise, FRESH, seed)
    smallest = min((np.linalg.svd(x[:, :k].numpy())[1].min() for k in range(1, examples)), default=1.0)
    assume(smallest > 1e-3)  # nearly collinear x amplify rounding, in the naive formula too
    size = np.abs(y.numpy()).max() + 1
    np.testing.assert_allclose(ridge(x, y, noise).numpy(), naive_ridge(x.numpy(), y.numpy(), noise), atol=1e-4 * size)


@pytest.mark.parametrize("noise", [1e-8, 1e-7, 1e-6, 2e-6])
def test_ridge_is_one_function_of_noise_whichever_way_it_is_computed(monkeypatch, noise):
    _, x, y = drawn(4, 8, noise, FRESH, 0, batch=256)
    values = []
    for border in (0.0, 1.0):
        monkeypatch.setattr(estimators, "LITTLE_NOISE", border)
        values.append(ridge(x, y, noise))
    torch.testing.assert_close(*values, atol=1e-6, rtol=1e-6)


@given(DIMENSIONS, EXAMPLES, NOISE, st.integers(1, 40), SEEDS)
@SETTINGS
def test_a_pool_of_one_needs_no_examples_and_the_first_prediction_is_the_prior_mean(dimension, examples, noise, size, seed):
    pool, x, y = drawn(dimension, examples, noise, size, seed)
    torch.testing.assert_close(dmmse(x, y, pool[:1], noise), x @ pool[0])
    torch.testing.assert_close(dmmse(x, y, pool, noise)[:, 0], x[:, 0] @ pool.mean(0))
    assert not ridge(x, y, noise)[:, 0].any()


@given(DIMENSIONS, st.integers(2, 40), SEEDS)
@SETTINGS
def test_without_noise_one_example_gives_a_pool_away_and_as_many_as_weights_any_task(dimension, size, seed):
    pool, x, _ = drawn(dimension, dimension + 3, 0.0, size, seed)
    y = x @ pool[size // 2]
    torch.testing.assert_close(dmmse(x, y, pool, 0.0)[:, 1:], y[:, 1:])
    torch.testing.assert_close(ridge(x, y, 0.0)[:, -1], y[:, -1], atol=1e-3, rtol=1e-3)
    assert (ridge(x.float(), y.float(), 0.0) - ridge(x, y, 0.0)).abs().max() < 1e-2 * (1 + y.abs().max())


@pytest.mark.parametrize(("dimension", "examples"), [(4, 8), (8, 16), (8, 4)])
def test_each_is_best_for_its_own_tasks_and_they_meet_as_the_pool_grows(dimension, examples):
    sizes, noise = [4, 64, 512, 2048, FRESH], 0.25 * dimension / 8
    pools = draw_pools(sizes, dimension, 0)
    sequences = draw_sequences(pools, Problem(dimension, examples, noise), 256, seeded_generator(5))
    *of_pools, (fresh, true) = zip(sequences.labels, sequences.signal, strict=True)
    expected, apart = ridge(sequences.x, fresh, noise), []

    def error(predictions, signal):
        return distance_by_position(predictions, signal, dimension).mean().item()

    for pool, (labels, signal) in zip(pools[:-1], of_pools, strict=True):
        assert error(dmmse(sequences.x, labels, pool, noise), signal) < error(ridge(sequences.x, labels, noise), signal)
        on_fresh = dmmse(sequences.x, fresh, pool, noise)
        assert error(expected, true) < error(on_fresh, true)
        apart.append(error(on_fresh, expected))
    assert sorted(apart, reverse=True) == apart and apart[-1] < 0.3 * apart[0]


def test_ridge_on_new_tasks_position_by_position():
    problem = Problem(4, 8, 0.125)
    sequences = draw_sequences([None], problem, 8192, seeded_generator(7))
    estimate = ridge(sequences.x, sequences.labels[0], problem.noise_variance)
    noiseless = distance_by_position(estimate, sequences.signal[0], 4)
    assert noiseless.tolist() == pytest.approx([0.97, 0.76, 0.53, 0.35, 0.18, 0.12, 0.07, 0.05], abs=0.04)
    assert noiseless.mean().item() == pytest.approx(0.385, abs=0.01)
    noisy = distance_by_position(estimate, sequences.labels[0], 4)  # eq. 1: its labels are noisy
    assert (noisy - noiseless).mean().item() == pytest.approx(problem.noise_variance / 4, abs=0.004)


def test_the_place_between_dmmse_and_ridge():
    assert place_between(0.0, 0.5, 0.5) == 0 and place_between(0.5, 0.0, 0.5) == 1
    assert place_between(0.3, 0.3, 0.5) == pytest.approx(0.5)
    assert place_between(0.1, 0.1, 0.0) is None


class Largest(TorchDispatchMode):
    """Context: the number of elements of the largest tensor that is made, views left out."""

    size = 0

    def __torch_dispatch__(self, function, types, arguments=(), more=None):
        made = function(*arguments, **(more or {}))
        if isinstance(made, torch.Tensor) and not made._is_view():
            self.size = max(self.size, made.numel())
        return made


@pytest.mark.parametrize(("size", "batch"), [(2**20, 2), (16, 2**14)])
def test_a_large_pool_and_a_large_batch_are_streamed_in_little_memory(size, batch):
    pool, x, y = drawn(3, 3, 0.125, size, 1, batch)
    with Largest() as largest:
        found = dmmse(x, y, pool, 0.125, block=2**16)
    assert largest.size <= 2**16
    torch.testing.assert_close(found, dmmse(x, y, pool, 0.125, block=2**24))


def test_pools_are_nested_and_drawn_uniformly_and_models_share_inputs_and_noise():
    small, large, none = draw_pools([5, 5000, FRESH], 3, 0)
    assert torch.equal(small, large[:5]) and none is None
    assert not torch.equal(small, draw_pools([5], 3, 1)[0])
    assert large.mean().abs() < 0.03 and abs(large.std() - 1) < 0.03
    sequences = draw_sequences([small, large, None], Problem(3, 4, 0.5), 4000, seeded_generator(3))
    noise = sequences.labels - sequences.signal
    torch.testing.assert_close(noise[0], noise[2], atol=1e-5, rtol=0)
    assert noise[0].var().item() == pytest.approx(0.5, rel=0.05)
    tasks = torch.linalg.lstsq(sequences.x[:, :3], sequences.signal[0][:, :3, None]).solution[..., 0]
    nearest = torch.cdist(tasks, small).argmin(1)
    assert (torch.bincount(nearest, minlength=5) / 4000).tolist() == pytest.approx([0.2] * 5, abs=0.03)
    again = draw_sequences([small], Problem(3, 4, 0.5), 4000, seeded_generator(3))
    assert torch.equal(sequences.labels[0], again.labels[0])
