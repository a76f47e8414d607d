"""Logits in float32 although the model is in half precision."""

import copy

import pytest
import torch

from llmft.models.parts.head import classification_head, precise_output, put_head
from llmft.models.reading.reader import reading
from llmft.models.wrapping import bare_model
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import adapted, tiny_model
from tests.scoring import score_answers

IDS = torch.arange(5, 45).view(2, 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["opt", "gptj", "gemma2"])
@torch.no_grad()
def test_logits_of_a_model_in_half_precision_are_exact(family, dtype):
    model, hidden = tiny_model(family, 20_000).to(dtype), []  # more rows than are held in float32 at once
    layer = model.get_output_embeddings()
    handle = layer.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].double()))
    rounded = model(IDS).logits
    with precise_output(model):
        logits = model(IDS).logits
    handle.remove()
    assert (rounded.dtype, logits.dtype) == (dtype, torch.float32)
    expected = copy.deepcopy(layer).double()(hidden[1])
    if family == "gemma2":
        cap = model.config.final_logit_softcapping
        expected = cap * torch.tanh(expected / cap)
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(IDS).logits, rounded)


def test_labels_that_rounding_would_make_equal_do_not_tie():
    model = adapted(tiny_model("opt"), None, untie_embeddings=True).bfloat16()
    layer = model.get_output_embeddings()
    with torch.no_grad():
        layer.weight.mul_(16)
        layer.weight[99] = layer.weight[17]
        layer.weight[99, 0] += layer.weight[99, 0].abs() / 64
    found = score_answers(model, TokenizedPrompts([], [[5, 6, 7], [8], [9, 10]]), [17, 99], queries_per_row=3).label_logprobs
    assert (found[:, 0] != found[:, 1]).all()
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]])).logits
    assert logits[0, -1, 17] == logits[0, -1, 99]


def test_a_classification_head_is_exact_too():
    model, hidden = tiny_model("llama"), []
    put_head(model, "fully-connected", ["a", "b", "c"], seed=0)
    model = adapted(model, "lora", adapter_dim=2).bfloat16()
    classifier = classification_head(model)
    classifier.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].double()))
    with torch.no_grad(), reading(model):
        logits = model(IDS).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), copy.deepcopy(classifier).double()(hidden[0]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("part", [None, "head_only"])
def test_float32_is_not_touched_and_all_is_as_before_afterwards(part):
    for dtype in (torch.float32, torch.bfloat16):
        model = adapted(tiny_model("opt"), part).to(dtype)
        layer = bare_model(model).get_output_embeddings()
        before = vars(layer).get("forward")
        with reading(model):
            assert (vars(layer).get("forward") == before) == (dtype == torch.float32)
        assert vars(layer).get("forward") == before
