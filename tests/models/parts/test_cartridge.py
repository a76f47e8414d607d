"""A cartridge starts as a context: the student answers X as the model answers C + X, and only the prefix is trained."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, FalconConfig

from llmft.errors import InputError
from llmft.models.load import load_model
from llmft.models.parts.adapt import check_part, count_trainable
from llmft.models.parts.cartridge import CartridgeModel, context_start
from llmft.models.parts.saving import save_student, start_of
from llmft.models.reading.batches import answer_logits, left_pad
from llmft.models.wrapping import encoded_virtual_tokens, virtual_tokens
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import adapted, part_flags, tiny_model
from tests.scoring import score_answers

FAMILIES = [
    "opt",
    "opt_post_norm",
    "gpt2",
    "gptj",
    "gpt_neox",
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "mistral",
    "gemma2",
    "gemma3",
    "gpt_oss",
]
CONTEXT = torch.randint(2, 600, (30,), generator=torch.Generator().manual_seed(0)).tolist()
QUERIES = [[5, 6, 7, 8, 9], [9, 3], [4]]
LABELS = [17, 99, 5]


def wide(family):
    """A family's tiny model whose answers depend strongly on the tokens and their positions."""
    model = tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 5
    return model


def logprobs(model, prompts):
    with torch.no_grad():
        return answer_logits(model.eval(), left_pad(prompts)).log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_the_context_itself(family):
    plain = wide(family)
    teacher = logprobs(plain, [CONTEXT + query for query in QUERIES])
    assert (teacher - logprobs(plain, QUERIES)).abs().max() > 0.1
    model = adapted(plain, "cartridge", context_ids=CONTEXT)
    torch.testing.assert_close(logprobs(model, QUERIES), teacher, atol=1e-5, rtol=0)
    assert virtual_tokens(model) == len(CONTEXT)
    prompts = TokenizedPrompts([5, 6], [[7], [8, 9], [3]])
    packed = score_answers(model, prompts, LABELS, queries_per_row=2).label_logprobs
    whole = score_answers(plain, TokenizedPrompts([*CONTEXT, 5, 6], prompts.suffixes), LABELS, queries_per_row=2)
    np.testing.assert_allclose(packed, whole.label_logprobs, atol=1e-5)


def test_the_attention_of_grouped_heads_has_a_width_of_its_own():
    """Qwen3 and Gemma: head_dim is not hidden size / heads, and fewer heads have keys and values than queries."""
    plain = tiny_model("qwen3")
    config = plain.config.to_dict() | {"head_dim": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    plain = AutoModelForCausalLM.from_config(type(plain.config)(**config)).eval()
    teacher = logprobs(plain, [CONTEXT + query for query in QUERIES])
    model = adapted(plain, "cartridge", context_ids=CONTEXT)
    assert (model.active_peft_config.token_dim, model.active_peft_config.num_attention_heads) == (12, 2)
    torch.testing.assert_close(logprobs(model, QUERIES), teacher, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frozen", [0, 1, 4])
def test_what_it_trains(frozen):
    model = adapted(wide("llama"), "cartridge", context_ids=CONTEXT, cartridge_tokens=7, cartridge_frozen_tokens=frozen).train()
    width = 2 * 2 * 2 * 8  # layers, keys and values, heads of them, their width
    assert count_trainable(model).trainable == (7 - frozen) * width
    answer_logits(model, left_pad(QUERIES)).log_softmax(-1)[:, 17].sum().backward()
    encoder = model.prompt_encoder["default"]
    assert encoder.trainable_embedding.grad.abs().sum(1).min() > 0
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not encoder.trainable_embedding)
    first = adapted(wide("llama"), "cartridge", context_ids=CONTEXT[:7])
    torch.testing.assert_close(encoder.weight, first.prompt_encoder["default"].weight, atol=1e-6, rtol=0)


def test_gradients_are_those_of_the_keys_and_values_themselves():
    from transformers.cache_utils import DynamicCache

    plain = wide("opt")
    with torch.no_grad():
        start = plain(torch.tensor([CONTEXT]), use_cache=True).past_key_values
    parts = [part.clone().requires_grad_() for layer in start.layers for part in (layer.keys, layer.values)]
    for query in QUERIES:
        cache = DynamicCache(list(zip(parts[::2], parts[1::2], strict=True)))
        plain(torch.tensor([query]), past_key_values=cache).logits[0, -1, 17].backward()
    expected = torch.stack([part.grad[0].transpose(0, 1) for part in parts], dim=1).flatten(1)
    model = adapted(plain, "cartridge", context_ids=CONTEXT, cartridge_frozen_tokens=0)
    answer_logits(model, left_pad(QUERIES))[:, 17].sum().backward()
    torch.testing.assert_close(model.prompt_encoder["default"].trainable_embedding.grad, expected, atol=1e-5, rtol=1e-4)


def test_a_prefix_alone_is_read_without_a_pass_through_the_layers():
    model = adapted(tiny_model("opt"), "cartridge", context_ids=CONTEXT)
    lengths = []
    embeddings = model.get_base_model().get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    score_answers(model, TokenizedPrompts([], [[7], [8, 9], [3]]), LABELS, queries_per_row=3)
    assert lengths == [4]
    assert encoded_virtual_tokens(model) == 0
    assert encoded_virtual_tokens(adapted(tiny_model("opt"), "soft_prompt", num_soft_prompt_tokens=6)) == 6
    assert encoded_virtual_tokens(tiny_model("opt")) == virtual_tokens(tiny_model("opt")) == 0


def test_without_a_context_it_starts_as_random_tokens_of_the_vocabulary():
    starts = []
    for seed in (1, 1, 2):
        torch.rand(len(starts))
        model = adapted(tiny_model("gpt2"), "cartridge", cartridge_tokens=5, seed=seed)
        starts.append(model.prompt_encoder["default"].weight)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    # the first token's keys and values of the first layer are those of some token at the first place
    with torch.no_grad():
        layer = tiny_model("gpt2")(torch.arange(600)[:, None], use_cache=True).past_key_values.layers[0]
    table = torch.stack([layer.keys, layer.values], dim=1).flatten(1)  # (600, 2 x heads x width)
    assert (table - starts[0][0, : table.shape[1]]).abs().amax(1).min() < 1e-5


def test_a_copy_has_a_cartridge_of_its_own():
    model = adapted(wide("llama"), "cartridge", context_ids=CONTEXT)
    before, other = logprobs(model, QUERIES), copy.deepcopy(model)
    torch.testing.assert_close(logprobs(other, QUERIES), before, atol=0, rtol=0)
    torch.nn.init.zeros_(other.prompt_encoder["default"].trainable_embedding)
    assert torch.equal(logprobs(model, QUERIES), before)
    assert not torch.allclose(logprobs(other, QUERIES), before)


@pytest.mark.parametrize("family", ["gpt_neo", "falcon"])
def test_distances_along_the_row_are_refused(family):
    with pytest.raises(InputError, match=f"--use_cartridge: {tiny_model(family).config.model_type} cannot read after") as caught:
        check_part(tiny_model(family), part_flags("cartridge"))
    assert "\n" not in str(caught.value)


def test_keys_and_values_of_different_widths_are_refused():
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    latent = DeepseekV3Config(
        **sizes, intermediate_size=16, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8,
        qk_rope_head_dim=4, v_head_dim=6,
    )  # fmt: skip
    with pytest.raises(InputError, match="--use_cartridge: deepseek_v3 cannot read after"):
        check_part(AutoModelForCausalLM.from_config(latent), part_flags("cartridge"))


def test_a_falcon_with_one_head_of_keys_and_values():
    falcon = FalconConfig(vocab_size=600, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False)
    plain = AutoModelForCausalLM.from_config(falcon).eval()
    teacher = logprobs(plain, [CONTEXT + query for query in QUERIES])
    model = adapted(plain, "cartridge", context_ids=CONTEXT)
    assert model.active_peft_config.num_attention_heads == 1
    torch.testing.assert_close(logprobs(model, QUERIES), teacher, atol=1e-5, rtol=0)


def test_the_start_of_a_context():
    assert context_start(CONTEXT, 0, 1) == CONTEXT
    assert context_start(CONTEXT, 4, 3) == CONTEXT[:4]
    with pytest.raises(InputError, match="--cartridge_tokens 31: the context has 30; use at most that many, or 0 for all"):
        context_start(CONTEXT, 31, 1)
    with pytest.raises(InputError, match="--cartridge_frozen_tokens 30: the cartridge has 30 tokens; leave 1 or more to train"):
        context_start(CONTEXT, 0, 30)


def test_saved_ones(tmp_path, tokenizers):
    wide("llama").save_pretrained(tmp_path / "base")
    tokenizers["opt"].save_pretrained(tmp_path / "base")
    model = adapted(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), "cartridge", context_ids=CONTEXT, cartridge_frozen_tokens=2
    )
    save_student(model, tmp_path / "student")
    assert {file.name for file in (tmp_path / "student").glob("*.safetensors")} == {"adapter_model.safetensors"}
    how = {"dtype": "float32", "attn_implementation": None, "revision": "main", "cache_dir": None}
    loaded, _ = load_model(str(tmp_path / "student"), **how)
    assert type(loaded) is CartridgeModel
    assert loaded.active_peft_config.num_frozen_tokens == 2
    torch.testing.assert_close(logprobs(loaded, QUERIES), logprobs(model, QUERIES), atol=0, rtol=0)
    with pytest.raises(InputError, match="there: is a model with a cartridge, which only"):
        start_of(loaded, "there")
    tiny_model("gpt_neo").save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=f"--model_name_or_path {tmp_path / 'student'}: {tmp_path / 'base'} cannot read after"):
        load_model(str(tmp_path / "student"), **how)
