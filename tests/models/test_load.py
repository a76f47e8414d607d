import pytest
import torch

from llmft.errors import InputError
from llmft.models.adapt import adapt, count_trainable
from llmft.models.load import fingerprint_model, load_model, short_name, window
from tests.conftest import tiny_model

HOW = {"dtype": "float32", "attn_implementation": None, "revision": "main", "cache_dir": None}


@pytest.fixture
def saved(tmp_path, tokenizers):
    tiny_model("opt").save_pretrained(tmp_path / "m")
    tokenizers["opt"].save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_folder_loads_in_the_precision_asked_for(saved):
    model, tokenizer = load_model(str(saved), **{**HOW, "dtype": "bfloat16"})
    assert model.dtype == torch.bfloat16
    assert tokenizer("x Yes").input_ids[0] == tokenizer.bos_token_id
    assert window(model) == 256


@pytest.mark.parametrize("how", ["missing", "empty", "no weights", "cut weights"])
def test_what_is_no_model_is_one_clear_line(saved, tmp_path, how):
    if how == "empty":
        name = tmp_path / "empty"
        name.mkdir()
    elif how == "cut weights":
        name = saved
        (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:1000])
    elif how == "no weights":
        name = saved
        (saved / "model.safetensors").unlink()
    else:
        name = tmp_path / "missing"
    with pytest.raises(InputError, match=f"--model_name_or_path {name}") as caught:
        load_model(str(name), **HOW)
    assert "\n" not in str(caught.value)


def test_fingerprint_follows_content_not_place(saved, tmp_path):
    mark = fingerprint_model(str(saved), "main")
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert fingerprint_model(str(copy), "main") == mark
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text[:-1] + " " if text.endswith("\n") else text + " ")
    assert fingerprint_model(str(copy), "main") != mark
    (copy / "tokenizer.json").write_text(text)
    assert fingerprint_model(str(copy), "main") == mark
    tiny_model("opt").half().save_pretrained(copy)
    assert fingerprint_model(str(copy), "main") != mark
    assert fingerprint_model("facebook/opt-125m", "main") == "facebook/opt-125m@main"


def test_short_names():
    assert [short_name(name) for name in ("facebook/opt-125m", "/models/opt/", "toy")] == ["opt-125m", "opt", "toy"]


def test_full_fine_tuning_trains_everything():
    model = adapt(tiny_model("llama"), None, dim=4, alpha=8, dropout=0.0)
    assert count_trainable(model).share == 1


@pytest.mark.parametrize("family", ["opt", "llama", "gpt_neox", "gpt2"])
def test_lora_trains_its_updates_only_and_starts_as_the_identity(family):
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        before = tiny_model(family)(ids).logits
        model = adapt(tiny_model(family), "lora", dim=4, alpha=8, dropout=0.0)
        torch.testing.assert_close(model(ids).logits, before, atol=0, rtol=0)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert 0 < count_trainable(model).share < 0.5
