"""What each method trains, how it is initialised, and what it refuses."""

import copy

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as PEFTS_IA3
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, ProphetNetConfig

from llmft.errors import InputError
from llmft.models.parts import parallel
from llmft.models.parts.adapt import check_part, count_trainable, keeps_base, without_adapter
from llmft.models.parts.head import classification_head, put_head
from llmft.models.parts.layers import ia3_targets
from llmft.models.parts.parallel import parallel_modules
from llmft.models.parts.saving import restore_student, save_student
from llmft.models.reading.batches import answer_logits, left_pad
from llmft.models.structure import towers
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import adapted, part_flags, tiny_model
from tests.scoring import score_answers

BATCH = left_pad([[5, 6, 7, 8, 9], [9, 3]])
PROMPTS = TokenizedPrompts([5, 6], [[7], [8, 9], [3]])


def logits(model, batch=BATCH):
    with torch.no_grad():
        return answer_logits(model.eval(), batch)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("part", ["lora", "ia3", "parallel", "parallel-attn", "parallel-fc"])
@pytest.mark.parametrize("family", ["opt", "opt_post_norm", "gptj", "gpt2", "gemma2"])
def test_adapters_start_as_the_model_itself(family, part):
    before = logits(tiny_model(family))
    torch.testing.assert_close(logits(adapted(tiny_model(family), part)), before, atol=1e-6, rtol=0)


def test_what_is_trained_is_listed():
    count = count_trainable(adapted(tiny_model("opt"), "bitfit"))
    groups = {group.name: (group.shape, group.tensors, group.weights) for group in count.trained}
    assert groups["model.decoder.layers.*.fc1.bias"] == ((64,), 2, 128)
    assert groups["model.decoder.final_layer_norm.bias"] == ((32,), 1, 32)
    assert all(name.endswith("bias") for name in groups)
    assert count.trainable == sum(weights for _, _, weights in groups.values())
    assert f"trains {count.trainable:,} of {count.total:,} weights" in str(count)
    assert "\n" not in str(count)
    assert count.as_dict()["share"] == count.share == count.trainable / count.total


def test_weights_that_zero_3_has_cut_up_count_whole():
    model = adapted(tiny_model("gpt2"), None)
    whole = count_trainable(model)
    for parameter in model.parameters():
        parameter.ds_shape, parameter.ds_numel = parameter.shape, parameter.numel()
        parameter.data = torch.empty(0)
    assert count_trainable(model) == whole


@pytest.mark.parametrize(
    ("settings", "embeddings", "head"),
    [
        ({}, True, True),
        ({"freeze_embeddings": True}, False, False),
        ({"freeze_embeddings": True, "untie_embeddings": True}, False, True),
    ],
)
def test_embeddings_and_a_tied_output_layer(settings, embeddings, head):
    model = adapted(tiny_model("opt"), None, **settings)
    decoder = model.model.decoder
    assert decoder.embed_tokens.weight.requires_grad == decoder.embed_positions.weight.requires_grad == embeddings
    assert model.lm_head.weight.requires_grad == head
    assert (model.lm_head.weight is decoder.embed_tokens.weight) == ("untie_embeddings" not in settings)
    assert model.config.tie_word_embeddings == ("untie_embeddings" not in settings)
    assert decoder.layers[0].fc1.weight.requires_grad


def test_an_output_layer_of_its_own_is_trained_where_only_that_is(tmp_path):
    model = adapted(tiny_model("gpt2"), "head_only")
    assert trained(model) == {"lm_head.weight"}
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert torch.equal(again.transformer.wte.weight, tiny_model("gpt2").transformer.wte.weight)


def test_neox_head_is_no_embedding():
    model = adapted(tiny_model("gpt_neox"), None, freeze_embeddings=True)
    assert model.get_output_embeddings().weight.requires_grad
    assert not model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "mistral", "falcon"])
def test_ia3_scales_what_peft_knows_to_scale(family):
    model = tiny_model(family)
    scaled, _ = ia3_targets(model)
    assert {name.split(".")[-1] for name in scaled} == {name.split(".")[-1] for name in PEFTS_IA3[model.config.model_type]}


@pytest.mark.parametrize("family", ["opt", "gptj", "gpt_neo", "gemma", "gemma2", "gemma3", "qwen2", "qwen3"])
def test_ia3_scales_keys_and_values_where_peft_takes_queries_for_them(family):
    scaled, inner = ia3_targets(tiny_model(family))
    assert {name.split(".")[-1] for name in scaled} == {"k_proj", "v_proj", inner[0].split(".")[-1]}
    assert "q_proj" in PEFTS_IA3[tiny_model(family).config.model_type]
    model = adapted(tiny_model(family), "ia3")
    feed = {name for name, module in model.named_modules() if getattr(module, "is_feedforward", False)}
    assert len(feed) == 2
    assert all(name.endswith(inner[0]) for name in feed)


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_lora_on_queries_and_values_alone(family):
    names = trained(adapted(tiny_model(family), "lora", lora_targets="query-value"))
    layers = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in names}
    assert layers == ({"q_proj", "v_proj"} if family == "opt" else {"c_attn"})


@pytest.mark.parametrize(("alpha", "scale"), [(16, 4.0), (-1, 1.0)])
def test_loras_scale(alpha, scale):
    model = adapted(tiny_model("llama"), "lora", adapter_dim=4, lora_alpha=alpha)
    assert {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")} == {scale}


PARALLEL = [("parallel", {"attention", "feed_forward"}), ("parallel-attn", {"attention"}), ("parallel-fc", {"feed_forward"})]


@pytest.mark.parametrize(("kind", "blocks"), PARALLEL)
def test_parallel_adapters_stand_beside_the_blocks_asked_for(kind, blocks):
    names = {f"model.layers.{layer}.parallel_{block}" for layer in (0, 1) for block in blocks}
    assert parallel_modules(adapted(tiny_model("llama"), kind)).keys() == names


@pytest.mark.parametrize(
    ("block", "norm", "output"),
    [("attention", "self_attn_layer_norm", "self_attn.out_proj"), ("feed_forward", "final_layer_norm", "fc2")],
)
def test_a_parallel_adapter_adds_its_network_of_the_blocks_input(block, norm, output):
    layer, seen = (model := adapted(tiny_model("opt"), "parallel", adapter_dim=3)).model.decoder.layers[0], {}
    adapter = layer.get_submodule(f"parallel_{block}")
    torch.nn.init.normal_(adapter.up.weight)
    adapter.scale.data.fill_(0.5)
    layer.get_submodule(norm).register_forward_hook(lambda m, i, found: seen.update(input=found))
    layer.get_submodule(output).register_forward_hook(lambda m, i, found: seen.update(output=found), prepend=True)
    layer.get_submodule(output).register_forward_hook(lambda m, i, found: seen.update(sum=found))
    logits(model)
    added = 0.5 * (seen["input"] @ adapter.down.weight.T + adapter.down.bias).relu() @ adapter.up.weight.T
    torch.testing.assert_close(seen["sum"], (seen["output"].view_as(added) + added).view_as(seen["sum"]))


def test_a_copy_of_a_model_has_parallel_adapters_of_its_own():
    model = adapted(tiny_model("llama"), "parallel")
    before = logits(model)
    other = copy.deepcopy(model)
    for module in parallel_modules(other).values():
        torch.nn.init.ones_(module.up.weight)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(logits(other), before)


KEPT = {
    "lora": {"lora_dropout": 0.5},
    "ia3": {},
    "parallel": {},
    "parallel-attn": {},
    "parallel-fc": {},
    "soft_prompt": {},
    "cartridge": {"context_ids": [5, 6, 7]},
}


@pytest.mark.parametrize("part", KEPT)
@pytest.mark.parametrize("family", ["opt", "gpt2"])
@pytest.mark.parametrize("training", [True, False])
def test_without_its_adapter_a_student_is_the_untouched_model(family, part, training):
    before = logits(tiny_model(family))
    model = adapted(tiny_model(family), part, **KEPT[part])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3
    student, weights = logits(model), {name: p.clone() for name, p in model.named_parameters()}
    model.train(training)
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)).train(not training)  # unlike the others
    modes = [m.training for m in model.modules()]
    needed = trained(model)
    with pytest.raises(KeyError), without_adapter(model) as base:
        with torch.no_grad():
            assert torch.equal(answer_logits(base, BATCH), before)
        packed = [score_answers(m, PROMPTS, [17, 99], queries_per_row=2).label_logprobs for m in (base, tiny_model(family))]
        assert (packed[0] == packed[1]).all()
        raise KeyError
    assert [m.training for m in model.modules()] == modes
    assert layer.training != training
    assert trained(model) == needed
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert torch.equal(logits(model), student)
    assert not torch.allclose(student, before)


def test_parts_that_keep_the_base():
    assert all(keeps_base(part) for part in KEPT)
    assert not any(keeps_base(part) for part in (None, "bitfit", "head_only"))
    with pytest.raises(ValueError, match="OPTForCausalLM has no adapter to leave out"), without_adapter(tiny_model("opt")):
        pass
    merged = adapted(tiny_model("opt"), "lora")
    merged.merge_adapter()
    with pytest.raises(ValueError, match="merged"), without_adapter(merged):
        pass


def test_a_frozen_adapter_stays_frozen():
    model = adapted(tiny_model("opt"), "lora").requires_grad_(False)
    with without_adapter(model):
        pass
    assert not trained(model)


@pytest.mark.parametrize("part", ["parallel", "soft_prompt"])
def test_new_weights_follow_the_seed_and_nothing_global(part):
    draws = []
    for seed in (1, 1, 2):
        torch.rand(len(draws))
        model = adapted(tiny_model("gpt2"), part, seed=seed)
        draws.append(torch.cat([p.flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("family", ["opt_post_norm", "gemma"])
def test_virtual_tokens_start_as_embeddings_as_the_model_reads_them(family):
    model = adapted(tiny_model(family), "soft_prompt", num_soft_prompt_tokens=7)
    start, embeddings = model.prompt_encoder["default"].embedding.weight, model.get_base_model().get_input_embeddings()
    assert start.shape == (7, embeddings.embedding_dim)
    with torch.no_grad():
        table = embeddings(torch.arange(600))
    assert all((table == row).all(1).any() for row in start)


@pytest.mark.parametrize("family", ["opt_post_norm", "gpt2", "llama"])
def test_a_soft_prompt_of_token_embeddings_reads_like_those_tokens(family):
    plain, model = tiny_model(family), adapted(tiny_model(family), "soft_prompt", num_soft_prompt_tokens=2)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(plain.get_input_embeddings()(torch.tensor([11, 12])))
    whole = logits(plain, left_pad([[11, 12, 5, 6, 7, 8, 9], [11, 12, 9, 3]]))
    torch.testing.assert_close(logits(model), whole, atol=1e-6, rtol=0)


def test_plain_peft_reads_a_soft_prompt_the_same_where_there_is_no_padding(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path / "base")
    model = adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), "soft_prompt", num_soft_prompt_tokens=4)
    save_student(model, tmp_path / "student")
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 3, 2, 4, 4]])
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits[:, -1], logits(model, left_pad(ids.tolist())), atol=1e-6, rtol=0)


def test_virtual_tokens_go_through_the_model_once_and_are_counted():
    model, prompts = (
        adapted(tiny_model("opt"), "soft_prompt", num_soft_prompt_tokens=6),
        TokenizedPrompts([5, 6], [[7], [8, 9], [3]]),
    )
    assert score_answers(model, prompts, [17, 99], queries_per_row=2).tokens == 6 + 2 + 4
    whole = adapted(tiny_model("falcon"), "soft_prompt", num_soft_prompt_tokens=6)  # it cannot share a prefix
    assert score_answers(whole, prompts, [17, 99], queries_per_row=2).tokens == 3 * (6 + 2) + 4


@pytest.mark.parametrize(("kind", "names"), [("linear", {"output.weight"}), ("fully-connected", None)])
def test_a_classification_head(kind, names, tmp_path):
    model = tiny_model("opt_post_norm")
    put_head(model, kind, ["a", "b", "c"], seed=3)
    head = classification_head(model)
    assert names in (None, {name for name, _ in head.named_parameters()})
    assert head.output.weight.shape == (3, 16)  # as wide as what enters the language-modelling head
    assert head.output.weight.std().item() == pytest.approx(model.config.init_std, rel=0.5)
    assert logits(model).shape == (2, 3)
    hidden = model.model.decoder(**BATCH).last_hidden_state[:, -1]
    if kind == "fully-connected":
        assert (head.dense.bias == 0).all()
        assert (head.output.bias == 0).all()
        hidden = (hidden @ head.dense.weight.T).relu()
    torch.testing.assert_close(logits(model), hidden @ head.output.weight.T)
    save_student(model, tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == "OPTModel"


@pytest.mark.parametrize("part", ["head_only", "bitfit", "lora", "ia3", "parallel", "soft_prompt"])
def test_a_classification_head_is_trained_with_any_part(part):
    model = tiny_model("opt")
    put_head(model, "fully-connected", ["a", "b"], seed=0)
    model = adapted(model, part)
    assert all(parameter.requires_grad for parameter in classification_head(model).parameters())
    rest = {name for name in trained(model) if "lm_head" not in name}
    assert bool(rest) == (part != "head_only")


def test_parts_that_a_model_has_not_are_refused():
    experts = tiny_model("mixtral")
    for part in ("parallel", "ia3"):
        for model in (experts, tiny_model("glm4_moe")):  # which has a dense feed-forward in one layer, a shared one in the other
            with pytest.raises(InputError, match=f"{model.config.model_type}: has no layers of one attention"):
                check_part(model, part_flags(part))
    check_part(experts, part_flags("lora"))
    with pytest.raises(InputError, match=r"--lora_dropout 0\.1: LoRA on the experts of mixtral has no dropout"):
        check_part(experts, part_flags("lora", lora_dropout=0.1))
    adapted(tiny_model("gpt_oss"), "lora", lora_dropout=0.1)  # LoRA leaves its experts alone
    with pytest.raises(InputError, match="--use_soft_prompt: gemma3_text embeds every token in each layer"):
        check_part(tiny_model("gemma3", hidden_size_per_layer_input=8), part_flags("soft_prompt"))  # as Gemma 3n's config
    for model in (experts, tiny_model("multimodal")):  # whose vision tower has some
        with pytest.raises(InputError, match=f"--bitfit: {model.config.model_type} has no bias terms"):
            check_part(model, part_flags("bitfit"))


@pytest.mark.parametrize(
    ("part", "flags"),
    [(None, {}), ("lora", {}), ("lora", {"lora_targets": "query-value"}), ("ia3", {}), ("parallel", {})],
)
def test_of_a_model_for_images_and_text_only_the_text_decoder_is_trained(part, flags, tmp_path):
    tiny_model("multimodal").save_pretrained(tmp_path / "base")
    model = adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), part, **flags)
    text = adapted(tiny_model("gemma3"), part, **flags)
    assert count_trainable(model).trainable == count_trainable(text).trainable
    answer_logits(model.train(), BATCH).sum().backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
            parameter += 0.01 if parameter.requires_grad else 0
    save_student(model, tmp_path / "student")
    if part in ("lora", "ia3"):
        torch.testing.assert_close(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "student")), logits(model))


def test_models_of_text_alone_have_no_towers():
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_decoder_layers": 1, "num_decoder_attention_heads": 2, "is_decoder": True}
    shared = ProphetNetConfig(**sizes)  # its embeddings are the decoder's, and stand beside it
    assert not any(map(towers, [AutoModelForCausalLM.from_config(shared), *map(tiny_model, ("opt", "gpt2", "llama"))]))
    assert towers(tiny_model("multimodal")) == r"(model\.vision_tower|model\.multi_modal_projector)(\..+)?"


def test_a_model_whose_own_code_has_its_layers_elsewhere_is_trained_whole():
    class Own(LlamaForCausalLM):
        base_model_prefix = "transformer"  # it has no such attribute, so its base is itself, beside whose decoder the output is

        def get_decoder(self):
            return self.model

    config = tiny_model("llama").config
    model = adapted(Own(LlamaConfig(**config.to_dict() | {"tie_word_embeddings": False})), None)
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("family", ["mixtral", "glm4_moe", "llama"])
def test_lora_on_queries_and_values_needs_no_dense_feed_forward(family):
    check_part(tiny_model(family), part_flags("lora", lora_targets="query-value"))
    names = trained(adapted(tiny_model(family), "lora", lora_targets="query-value"))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names} == {"q_proj", "v_proj"}
    assert len(names) == 2 * 2 * 2


def test_parallel_adapters_beside_experts_load_as_before(tmp_path):
    model = parallel.PARALLEL.add(tiny_model("glm4_moe"), part_flags("parallel"), None, 0)  # `adapt` refuses them now
    model.name_or_path = "base"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 if parameter.requires_grad else 0
    save_student(model, tmp_path)
    torch.testing.assert_close(logits(restore_student(tiny_model("glm4_moe"), tmp_path)), logits(model))


def test_biases_of_experts_are_biases():
    names = trained(adapted(tiny_model("gpt_oss"), "bitfit"))
    assert {name.rsplit(".", 1)[1] for name in names} == {"bias", "gate_up_proj_bias", "down_proj_bias"}


def test_lora_on_experts_is_as_large_as_peft_says_and_warns_of_nothing(recwarn):
    model = adapted(tiny_model("mixtral"), "lora", adapter_dim=2, lora_alpha=-1)
    layers = {(m.parameter_name, m.r["default"], m.scaling["default"]) for m in model.modules() if hasattr(m, "parameter_name")}
    assert layers == {("gate_up_proj", 4, 1.0), ("down_proj", 2, 1.0), ("weight", 2, 1.0)}
    assert not [str(warning.message) for warning in recwarn if "pattern" in str(warning.message)]
