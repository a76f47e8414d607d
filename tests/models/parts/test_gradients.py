"""Gradients: for tied weights the same bits, and no second or third tensor; for biases without effect exactly 0."""

import copy
import ctypes
import gc
import re
import statistics
from pathlib import Path

import pytest
import torch

from llmft.models.parts.gradients import add_up_in_place, key_biases
from tests.conftest import adapted, tiny_model

IDS = torch.arange(5, 45).view(2, 20)


def tied(family):
    model = tiny_model(family)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return model


def answers_and_gradients(model, ids=IDS):
    logits = model.eval()(input_ids=ids, logits_to_keep=1).logits
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_answers_and_gradients_are_the_same_bits(family, dtype):
    plain = tied(family).to(dtype)
    model = copy.deepcopy(plain)
    add_up_in_place(model)
    model = copy.deepcopy(model)  # a copy multiplies by its own weights
    (logits, gradients), (expected, expected_gradients) = answers_and_gradients(model), answers_and_gradients(plain)
    assert torch.equal(logits, expected)
    assert gradients.keys() == expected_gradients.keys()
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)


def test_repeated_tokens_and_padding():
    plain = tied("opt")
    model = copy.deepcopy(plain)
    add_up_in_place(model)
    padding = model.get_input_embeddings().padding_idx
    ids = torch.tensor([[5, 9, 5, 5, padding], [9, 5, padding, 8, 9]])
    (_, gradients), (_, expected) = answers_and_gradients(model, ids), answers_and_gradients(plain, ids)
    assert padding is not None and expected["model.decoder.embed_tokens.weight"][5].any()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


USES = {
    "no output layer": lambda model: model.model(input_ids=IDS).last_hidden_state.square().sum(),
    "weights themselves": lambda model: model(input_ids=IDS).logits.sum() + model.get_input_embeddings().weight.square().sum(),
    "the sum of weights": lambda model: model.model(input_ids=IDS)[0].sum() + model.get_input_embeddings().weight.sum(),
    "two passes": lambda model: model(input_ids=IDS).logits.sum() + model(input_ids=IDS + 7).logits.square().sum(),
    "an output layer alone": lambda model: model.get_output_embeddings()(torch.ones(2, 32)).logsumexp(-1).sum(),
}


@pytest.mark.parametrize("use", USES)
def test_other_uses_of_the_weights(use):
    plain = tied("opt")
    model = copy.deepcopy(plain)
    add_up_in_place(model)
    for _ in range(2):  # nothing is left over for the next one
        found, expected = (torch.autograd.grad(USES[use](one), one.get_input_embeddings().weight)[0] for one in (model, plain))
        torch.testing.assert_close(found, expected)
        USES[use](model).backward()
        torch.testing.assert_close(model.get_input_embeddings().weight.grad, expected)
        model.zero_grad()


def test_saved_tensors_that_come_back_as_copies():
    plain = tied("opt")
    model, gradients = copy.deepcopy(plain), []
    add_up_in_place(model)
    for one in (model, plain):
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
            one(input_ids=IDS).logits.square().sum().backward()
        gradients.append(one.get_input_embeddings().weight.grad)
    assert torch.equal(*gradients)


def test_hooks_on_the_weights_see_the_whole_gradient():
    plain = tied("opt")
    model, seen = copy.deepcopy(plain), []
    add_up_in_place(model)
    for one in (model, plain):
        one.get_input_embeddings().weight.register_hook(lambda gradient: seen.append(gradient.clone()) or gradient.clamp(max=0))
        one(input_ids=IDS).logits.square().sum().backward()
    assert torch.equal(*seen)
    assert torch.equal(*(one.get_input_embeddings().weight.grad for one in (model, plain)))


class Break(torch.autograd.Function):
    """Fails if gradients go back through it."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        raise ArithmeticError


def test_a_backward_pass_that_is_broken_off_leaves_nothing_to_the_next():
    plain = tied("opt")
    model = copy.deepcopy(plain)
    add_up_in_place(model)
    with pytest.raises(ArithmeticError):
        (Break.apply(model(input_ids=IDS).logits).sum() + model(input_ids=IDS + 1).logits.square().sum()).backward()
    for one in (model, plain):
        one.zero_grad()
        one(input_ids=IDS).logits.square().sum().backward()
    assert torch.equal(*(one.get_input_embeddings().weight.grad for one in (model, plain)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["opt", "gpt2"])
@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}, {"use_reentrant": True}])
def test_gradients_of_several_batches_add_up_to_the_same_bits(family, dtype, checkpointing):
    """As in gradient accumulation, and with layers that are computed again for their gradients."""
    plain = tied(family).to(dtype).train()
    if checkpointing is not None:
        plain.gradient_checkpointing_enable(checkpointing)
    model = copy.deepcopy(plain)
    add_up_in_place(model)
    for one in (plain, model):
        for ids in (IDS, IDS.flip(1), IDS[:, :7]):
            logits = one(input_ids=ids, logits_to_keep=1, use_cache=False).logits
            (logits.logsumexp(-1).sum() / 3).backward()
    gradients, expected = ({name: p.grad for name, p in one.named_parameters()} for one in (model, plain))
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux's /proc")
def test_no_second_or_third_tensor_is_made():

    def peak(model):
        logits = model(input_ids=IDS, logits_to_keep=1).logits
        model.get_input_embeddings().weight.grad = None
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # memory that malloc has kept from other tests would be used without a trace
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        logits.logsumexp(-1).sum().backward()
        return memory("VmHWM") - before

    def memory(name):
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

    model = tiny_model("opt", vocabulary=300_000)  # tensors of more than 32 MiB: smaller ones malloc takes from what it has kept
    model.requires_grad_(False).get_input_embeddings().requires_grad_(True)
    plain = statistics.median(peak(model) for _ in range(5))
    model = adapted(model)
    tensor = model.get_input_embeddings().weight.nbytes
    assert statistics.median(peak(model) for _ in range(5)) < plain - 1.8 * tensor


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
    assert (family != "gpt2") or not torch.allclose(logits(model), before)  # its other entries matter


@pytest.mark.parametrize("family", ["gpt_neox", "qwen2", "llama"])
def test_models_that_turn_keys_have_none(family):
    assert key_biases(tiny_model(family)) == []


@pytest.mark.parametrize("family", ["opt", "gpt2"])
@pytest.mark.parametrize("part", [None, "bitfit"])
def test_their_gradient_is_exactly_zero(family, part):
    model = adapted(tiny_model(family), part)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for bias, keys in key_biases(model):
        assert not bias.grad[keys].any()
        others = torch.ones(len(bias), dtype=bool).index_fill(0, keys, False)
        assert bias.grad[others].any() == bool(others.any())
