import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmft.errors import InputError
from llmft.models.identity import fingerprint_model
from llmft.models.load import load_model, short_name, window
from llmft.models.parts.head import put_head
from llmft.models.parts.saving import save_student, start_of
from llmft.models.reading.batches import answer_logits, left_pad
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import adapted, tiny_model
from tests.scoring import score_answers

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


def test_a_model_without_weights_is_one_clear_line(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=f"--model_name_or_path {saved}: cannot be loaded") as caught:
        load_model(str(saved), **HOW)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "attention"), [("opt", "flash_attention_3"), ("opt", "flush"), ("gpt_oss", "sdpa")])
def test_attention_that_a_model_cannot_use_is_named_by_its_own_flag(saved, family, attention):
    tiny_model(family).save_pretrained(saved)
    with pytest.raises(InputError, match=rf"^--attn_implementation {attention}: cannot be used \(.*\); leave it out"):
        load_model(str(saved), **HOW | {"attn_implementation": attention})


def test_attention_is_not_blamed_for_other_errors(tmp_path):
    folder = tmp_path / "kernels"
    tiny_model("opt").config.save_pretrained(folder)
    with pytest.raises(InputError, match=f"^--model_name_or_path {folder}: cannot be loaded"):
        load_model(str(folder), **HOW | {"attn_implementation": "eager"})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Rwkv", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 600}),
        (
            "xLSTM",
            {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_heads": 2,
                "vocab_size": 600,
                "chunkwise_kernel": "chunkwise--native_autograd",
            },
        ),
    ],
)
def test_a_recurrent_model_that_reads_padding_is_refused(tmp_path, tokenizers, kind, settings):
    config = getattr(transformers, f"{kind}Config")(**settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizers["opt"].save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"is of the kind {kind.lower()}, which counts places by rules of its own"):
        load_model(str(tmp_path), **HOW)


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


BATCH = left_pad([[5, 6, 7, 8, 9], [9, 3]])


def logits(model):
    with torch.no_grad():
        return answer_logits(model.eval(), BATCH)


def student(base, folder, part):
    """A student with an adapter on the model saved at `base`, changed from its initial weights, saved in `folder`."""
    torch.manual_seed(0)
    model = adapted(AutoModelForCausalLM.from_pretrained(base), part)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    save_student(model, folder)
    return model


@pytest.mark.parametrize("part", ["lora", "parallel"])
def test_fingerprint_of_an_adapter_covers_its_base_wherever_that_lies(saved, tmp_path, part):
    student(saved, tmp_path / "one", part)
    mark = fingerprint_model(str(tmp_path / "one"), "main")
    shutil.copytree(saved, tmp_path / "elsewhere")
    student(tmp_path / "elsewhere", tmp_path / "two", part)
    assert fingerprint_model(str(tmp_path / "two"), "main") == mark
    tiny_model("opt").half().save_pretrained(tmp_path / "elsewhere")
    assert fingerprint_model(str(tmp_path / "two"), "main") != mark


def test_short_name_of_a_runs_student(tmp_path):
    (tmp_path / "abc" / "model").mkdir(parents=True)
    assert short_name(str(tmp_path / "abc" / "model")) == "model"
    (tmp_path / "abc" / "config.json").write_text(json.dumps({"model": "opt-125m", "method": "pbft-lora"}))
    assert short_name(str(tmp_path / "abc" / "model")) == "opt-125m-pbft-lora"


@pytest.mark.parametrize(("family", "limit"), [("gpt2", 256), ("gptj", 256), ("gpt_neo", 256), ("opt", 256), ("gemma3", 256)])
def test_window_by_whatever_name_the_config_gives_it(family, limit):
    assert window(tiny_model(family)) == limit


def test_window_of_mpt():
    from transformers import MptConfig

    config = MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=77, vocab_size=50)
    assert window(AutoModelForCausalLM.from_config(config)) == 77


def test_window_of_long_rope_ends_where_its_frequencies_change():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    assert window(tiny_model("phi3", rope_parameters=rope, original_max_position_embeddings=64)) == 64


@pytest.mark.parametrize(("family", "part"), [("opt", "lora"), ("opt", "ia3"), ("mixtral", "lora")])
def test_an_adapter_on_a_merged_adapter(saved, tmp_path, family, part):
    tiny_model(family).save_pretrained(saved)
    first = student(saved, tmp_path / "first", part)
    loaded, _ = load_model(str(tmp_path / "first"), **HOW)
    torch.testing.assert_close(logits(loaded), logits(first), atol=0, rtol=0)
    plain = start_of(loaded, str(tmp_path / "first"))
    torch.testing.assert_close(logits(plain), logits(first), atol=1e-6, rtol=0)
    second = adapted(plain, "lora")
    torch.nn.init.ones_(next(p for name, p in second.named_parameters() if "lora_B" in name))
    save_student(second, tmp_path / "second")
    start = tmp_path / "second" / "start"
    assert start.is_dir() == ((family, part) != ("opt", "lora"))  # the merged model
    if start.is_dir():  # which is then the base, and has no tokenizer
        AutoTokenizer.from_pretrained(saved).save_pretrained(tmp_path / "second")
        assert load_file(start / "model.safetensors").keys() == load_file(saved / "model.safetensors").keys()
    again, tokenizer = load_model(str(tmp_path / "second"), **HOW)
    torch.testing.assert_close(logits(again), logits(second), atol=1e-6, rtol=0)
    assert tokenizer("x Yes").input_ids[0] == tokenizer.bos_token_id  # with lora: from the base of the base


@pytest.mark.parametrize(
    ("how", "joined"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 6]}}, False),
    ],
)
def test_an_adapter_on_one_of_tied_layers_loads_by_plain_peft(tmp_path, tokenizers, how, joined):
    from peft import PeftModel

    config = tiny_model("llama").config
    config.tie_word_embeddings = True
    base = AutoModelForCausalLM.from_config(config)
    assert base.lm_head.weight is base.model.embed_tokens.weight
    base.save_pretrained(tmp_path / "base")
    tokenizers["llama"].save_pretrained(tmp_path / "base")
    first = of_a_resized_base(tmp_path / "first", tmp_path / "base", 600, **how)
    loaded, _ = load_model(str(tmp_path / "first"), **HOW)
    plain = start_of(loaded, str(tmp_path / "first"))
    torch.testing.assert_close(logits(plain), logits(first), atol=1e-5, rtol=0)
    second = adapted(plain, "lora")
    torch.nn.init.ones_(next(p for name, p in second.named_parameters() if "lora_B" in name))
    save_student(second, tmp_path / "second")
    assert (tmp_path / "second" / "start").is_dir() != joined
    start = AutoModelForCausalLM.from_pretrained(tmp_path / ("base" if joined else "second/start"))
    torch.testing.assert_close(logits(PeftModel.from_pretrained(start, tmp_path / "second")), logits(second), atol=1e-5, rtol=0)


def test_an_adapter_on_merged_weights_that_deepspeed_has_cast(saved, tmp_path):
    student(saved, tmp_path / "first", "lora")
    loaded, _ = load_model(str(tmp_path / "first"), **HOW)
    second = adapted(start_of(loaded, str(tmp_path / "first")), "lora")
    torch.nn.init.ones_(next(p for name, p in second.named_parameters() if "lora_B" in name))
    for name, parameter in second.named_parameters():
        parameter.data = parameter.data if "lora_" in name else parameter.data.bfloat16()
    save_student(second, tmp_path / "second")
    AutoTokenizer.from_pretrained(saved).save_pretrained(tmp_path / "second")
    again, _ = load_model(str(tmp_path / "second"), **{**HOW, "dtype": "bfloat16"})
    torch.testing.assert_close(logits(again), logits(second), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["classifier", "parallel adapters", "soft prompt"])
def test_students_of_another_kind_are_nothing_to_train_from(kind):
    model = tiny_model("opt")
    if kind == "classifier":
        put_head(model, "linear", ["a", "b"], 0)
    else:
        model = adapted(model, "parallel" if kind == "parallel adapters" else "soft_prompt")
    with pytest.raises(
        InputError, match=f"--model_name_or_path there: is a (model with )?(a )?{kind}, which only eval.py accepts"
    ):
        start_of(model, "there")


def of_a_resized_base(folder, base, rows, **how):
    """An adapter that was trained after the vocabulary of `base` was resized to `rows` tokens, saved in `folder`."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(rows)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **how))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted


@pytest.mark.parametrize("family", ["opt", "llama"])  # tied, and not
@pytest.mark.parametrize("rows", [607, 580])
def test_an_adapter_of_a_resized_base(tmp_path, tokenizers, family, rows):
    tiny_model(family).save_pretrained(tmp_path / "base")
    tokenizers[family].save_pretrained(tmp_path / "base")
    how = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    trained = of_a_resized_base(tmp_path / "a", tmp_path / "base", rows, **how)
    loaded, _ = load_model(str(tmp_path / "a"), **HOW)
    torch.testing.assert_close(logits(loaded), logits(trained), atol=1e-6, rtol=0)
    second = adapted(start_of(loaded, str(tmp_path / "a")), "lora")
    torch.nn.init.ones_(next(p for name, p in second.named_parameters() if "lora_B" in name))
    save_student(second, tmp_path / "second")
    tokenizers[family].save_pretrained(tmp_path / "second")
    again, _ = load_model(str(tmp_path / "second"), **HOW)
    torch.testing.assert_close(logits(again), logits(second), atol=1e-6, rtol=0)
    of_a_resized_base(tmp_path / "b", tmp_path / "base", rows, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(InputError, match=f"its base has 600 embeddings, but the adapter was trained with {rows}"):
        load_model(str(tmp_path / "b"), **HOW)


@pytest.mark.parametrize("part", ["lora", "parallel"])
def test_an_adapter_whose_base_is_gone_says_so(saved, tmp_path, part):
    student(saved, tmp_path / "a", part)
    shutil.rmtree(saved)
    file = "adapter_config.json" if part == "lora" else "parallel_adapter.json"
    with pytest.raises(InputError, match=f"its base {saved} is not there; write where it is into its {file}"):
        load_model(str(tmp_path / "a"), **HOW)
    settings = json.loads((tmp_path / "a" / file).read_text())
    (tmp_path / "a" / file).write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(InputError, match=f"{file} names no base model"):
        load_model(str(tmp_path / "a"), **HOW)


def test_an_adapter_may_name_a_bundled_model(tmp_path):
    from llmft.worlds.nli import CHECKPOINT

    model = student(CHECKPOINT, tmp_path / "a", "lora")
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(CHECKPOINT)
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "toy"}))
    loaded, _ = load_model(str(tmp_path / "a"), **HOW)
    torch.testing.assert_close(logits(loaded), logits(model), atol=0, rtol=0)


def test_an_adapter_of_another_model_is_one_clear_line(saved, tmp_path):
    student(saved, tmp_path / "a", "parallel")
    tiny_model("llama").save_pretrained(saved)
    with pytest.raises(InputError, match=f"--model_name_or_path {tmp_path / 'a'}: cannot be loaded") as caught:
        load_model(str(tmp_path / "a"), **HOW)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_from_elsewhere(saved, tmp_path, tokenizers):
    tokenizers["gpt2"].save_pretrained(tmp_path / "t")
    _, tokenizer = load_model(str(saved), **HOW, tokenizer_name=str(tmp_path / "t"))
    assert tokenizer("x Yes").input_ids == tokenizers["gpt2"]("x Yes").input_ids != tokenizers["opt"]("x Yes").input_ids


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("part", [None, "lora", "ia3", "parallel", "soft_prompt"])
def test_half_precision_scores_on_the_cpu(saved, tmp_path, dtype, part):
    student(saved, tmp_path / "a", part)
    shutil.copy(saved / "tokenizer.json", tmp_path / "a")
    shutil.copy(saved / "tokenizer_config.json", tmp_path / "a")
    prompts = TokenizedPrompts([5, 6, 7], [[8, 9], [3], [4, 4, 4]])
    scores = []
    for precision in ("float32", dtype):
        model, _ = load_model(str(tmp_path / "a"), **{**HOW, "dtype": precision})
        scores.append(score_answers(model, prompts, [17, 99], queries_per_row=2).label_logprobs)
    np.testing.assert_allclose(scores[1], scores[0], atol=0.05)
    assert model.get_input_embeddings().weight.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("pad", [None, 1, 5])
def test_the_pad_token_changes_nothing(pad):
    model = tiny_model("llama")
    model.config.pad_token_id = pad  # none at all, the end token's, or one that occurs in prompts
    prompts = TokenizedPrompts([5, 1, 7], [[5, 5], [1], [5, 1, 0, 5]])
    scores = score_answers(model, prompts, [17, 99], queries_per_row=3).label_logprobs
    batch = left_pad([prompts.whole(i) for i in range(3)])
    with torch.no_grad():
        padded = answer_logits(model, batch).log_softmax(-1)[:, [17, 99]]
    np.testing.assert_allclose(scores, padded.numpy(), atol=1e-6)


def write_gguf(model, tokenizer, path):
    """A Llama and its byte-level tokenizer as llama.cpp stores them."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(state["vocab"], key=state["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words + [f"<extra{i}>" for i in range(config.vocab_size - len(words))])
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # llama.cpp stores the two halves of a rotary pair side by side
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf(tmp_path, tokenizers):
    model = tiny_model("llama")
    write_gguf(model, tokenizers["gpt2"], tmp_path / "m.gguf")
    loaded, tokenizer = load_model(str(tmp_path), **HOW, gguf_file="m.gguf")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6, rtol=0)
    words = " the cat Yes"
    assert tokenizer(words, add_special_tokens=False).input_ids == tokenizers["gpt2"](words, add_special_tokens=False).input_ids
    for name in ("first", "second"):
        tokenizers["gpt2"].save_pretrained(tmp_path / name)
    save_student(adapted(loaded, "ia3"), tmp_path / "first")
    first, _ = load_model(str(tmp_path / "first"), **HOW)
    save_student(adapted(start_of(first, str(tmp_path / "first")), "lora"), tmp_path / "second")
    second, _ = load_model(str(tmp_path / "second"), **HOW)  # whose base is a folder beside it, and no .gguf file
    torch.testing.assert_close(logits(second), logits(model), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match=r"the folder has no n\.gguf"):
        load_model(str(tmp_path), **HOW, gguf_file="n.gguf")
    with pytest.raises(InputError, match=r"the folder has no config\.json"):
        load_model(str(tmp_path), **HOW)
