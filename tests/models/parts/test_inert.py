"""Biases that change nothing: found in the right places, left alone by optimizers."""

import pytest
import torch

from llmft.models.parts.adapt import adapt
from llmft.models.parts.inert import key_biases
from tests.conftest import tiny_model

IDS = torch.arange(5, 45).view(2, 20)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", ["opt", "opt_post_norm", "gpt2"])
def test_they_change_no_answer(family):
    model = tiny_model(family).double().eval()
    before, found = logits(model), key_biases(model)
    assert len(found) == model.config.num_hidden_layers
    with torch.no_grad():
        for bias, keys in found:
            bias[keys] += torch.randn(len(keys), dtype=bias.dtype)
    torch.testing.assert_close(logits(model), before, atol=1e-12, rtol=0)
    with torch.no_grad():
        for bias, _ in found:
            bias += torch.linspace(-1, 1, len(bias), dtype=bias.dtype) if family == "gpt2" else 0
    assert (family != "gpt2") or not torch.allclose(logits(model), before)  # its other places do count


@pytest.mark.parametrize("family", ["gpt_neox", "qwen2", "llama"])
def test_models_that_turn_keys_have_none(family):
    assert key_biases(tiny_model(family)) == []


@pytest.mark.parametrize("family", ["opt", "gpt2"])
@pytest.mark.parametrize("part", [None, "bitfit"])
def test_their_gradient_is_exactly_zero(family, part):
    model = adapt(tiny_model(family), part)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for bias, keys in key_biases(model):
        assert not bias.grad[keys].any()
        others = torch.ones(len(bias), dtype=bool).index_fill(0, keys, False)
        assert bias.grad[others].any() == bool(others.any())
