import hashlib
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from llmft.models.fingerprint import CHUNK, NO_MATTER, fingerprint_weights
from tests.conftest import adapted, tiny_model


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_weights_have_the_same_fingerprint(family, dtype, tmp_path):
    model = tiny_model(family).to(dtype)
    found = fingerprint_weights(model)
    assert len(found) == 64
    assert fingerprint_weights(tiny_model(family).to(dtype)) == found
    model.save_pretrained(tmp_path / "somewhere")
    assert fingerprint_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "somewhere", dtype=dtype)) == found


def test_the_end_of_a_large_tensor_counts():
    model = tiny_model("llama")
    model.model.embed_tokens.weight = torch.nn.Parameter(torch.zeros(2**24 + 100))  # a bit more than is read at a time
    before = fingerprint_weights(model)
    with torch.no_grad():
        model.model.embed_tokens.weight[-1] = 1
    assert fingerprint_weights(model) != before


def test_it_is_the_sha256_of_whole_tensors_however_they_are_read():
    model = tiny_model("opt")
    model.register_buffer("large", torch.arange(CHUNK // 4 + 100))
    config = {name: value for name, value in model.config.to_dict().items() if name not in NO_MATTER}
    digest = hashlib.sha256(f"OPTForCausalLM {json.dumps([config, {}], sort_keys=True, default=str)}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    assert fingerprint_weights(model) == digest.hexdigest()


def test_where_the_bytes_lie_does_not_matter():
    model = tiny_model("llama")
    found = fingerprint_weights(model)
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
    assert not layer.weight.is_contiguous()
    assert fingerprint_weights(model) == found


def test_nor_does_the_order_of_an_adapters_settings_or_where_its_base_lies():
    model = adapted(tiny_model("llama"), "lora")
    found, (settings_of,) = fingerprint_weights(model), model.peft_config.values()
    assert isinstance(settings_of.target_modules, set) and len(settings_of.target_modules) > 3  # in an order of this process
    settings_of.target_modules = sorted(settings_of.target_modules)
    settings_of.base_model_name_or_path, settings_of.inference_mode = "elsewhere", True
    assert fingerprint_weights(model) == found
    settings_of.lora_alpha += 1
    assert fingerprint_weights(model) != found


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


def test_code_that_comes_with_a_model_counts_and_not_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = tiny_model("opt")
    model.config.auto_map = {"AutoModelForCausalLM": "modeling_own.Own"}
    model.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "modeling_own.py").write_text("from transformers import OPTForCausalLM\nfrom .parts import SCALE\n\n\n")
    with (tmp_path / "a" / "modeling_own.py").open("a") as file:
        file.write("class Own(OPTForCausalLM):\n    scale = SCALE\n")
    (tmp_path / "a" / "parts.py").write_text("SCALE = 1\n")
    for name in ("copy", "changed"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
    (tmp_path / "changed" / "parts.py").write_text("SCALE = 2\n")
    found = [
        fingerprint_weights(AutoModelForCausalLM.from_pretrained(tmp_path / name, trust_remote_code=True))
        for name in ("a", "copy", "changed")
    ]
    assert found[0] == found[1] != found[2]
