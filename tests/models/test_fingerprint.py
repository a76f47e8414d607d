import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from llmft.models import fingerprint
from llmft.models.fingerprint import fingerprint_weights
from tests.conftest import tiny_model


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_weights_have_the_same_fingerprint(family, dtype, tmp_path, monkeypatch):
    model = tiny_model(family).to(dtype)
    found = fingerprint_weights(model)
    assert len(found) == 64
    assert fingerprint_weights(tiny_model(family).to(dtype)) == found
    model.save_pretrained(tmp_path / "somewhere")
    assert fingerprint_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "somewhere", dtype=dtype)) == found
    monkeypatch.setattr(fingerprint, "CHUNK", 100)
    assert fingerprint_weights(model) == found


def test_where_the_bytes_lie_does_not_matter():
    model = tiny_model("llama")
    found = fingerprint_weights(model)
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
    assert not layer.weight.is_contiguous()
    assert fingerprint_weights(model) == found


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_any_bit_of_any_weight_counts(data):
    model = tiny_model("opt")
    found = fingerprint_weights(model)
    name, weight = data.draw(st.sampled_from(list(model.named_parameters())))
    with torch.no_grad():
        bits = weight.view(-1).view(torch.int32)
        bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1
    assert fingerprint_weights(model) != found, name


def test_type_and_settings_count():
    found = {fingerprint_weights(tiny_model("llama")), fingerprint_weights(tiny_model("llama").bfloat16())}
    model = tiny_model("llama")
    model.config.rms_norm_eps = 0.1
    assert len(found | {fingerprint_weights(model)}) == 3
