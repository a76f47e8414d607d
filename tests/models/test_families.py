"""Every family with every method: scores do not depend on padding, batch or packing, and a saved student scores the same."""

import copy

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from llmft.errors import InputError
from llmft.models.load import load_model
from llmft.models.parts.adapt import check_part
from llmft.models.parts.gradients import key_biases
from llmft.models.parts.head import classification_head, put_head
from llmft.models.parts.saving import save_student
from llmft.models.reading.batches import answer_logits, left_pad
from llmft.models.wrapping import bare_model, forward_parameters, virtual_tokens
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import adapted, part_flags, tiny_model
from tests.scoring import score_answers

FAMILIES = ["opt", "opt_post_norm", "gpt_neox", "llama", "gptj", "gpt2", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]
WITHOUT_BIASES = {"llama", "qwen3", "gemma", "gemma2", "gemma3"}
METHODS = {
    "full": (None, {}),
    "freeze_embeddings": (None, {"freeze_embeddings": True, "untie_embeddings": True}),
    "head_only": ("head_only", {}),
    "bitfit": ("bitfit", {}),
    "lora": ("lora", {"adapter_dim": 4, "lora_alpha": -1}),
    "query-value": ("lora", {"adapter_dim": 4, "lora_targets": "query-value"}),
    "ia3": ("ia3", {}),
    "parallel": ("parallel", {"adapter_dim": 4}),
    "soft_prompt": ("soft_prompt", {"num_soft_prompt_tokens": 3}),
    "cartridge": ("cartridge", {"context_ids": [1, 30, 40, 50], "cartridge_tokens": 3}),
}
VANILLA = ["full", "head_only", "bitfit", "lora", "ia3", "parallel", "soft_prompt", "cartridge"]
CASES = [*METHODS, *(f"vanilla {method}" for method in VANILLA)]
NAMES = ["entailment", "neutral", "contradiction"]
HOW = {"dtype": "float32", "attn_implementation": None, "revision": "main", "cache_dir": None}

RANDOM = np.random.default_rng(0)
PROMPTS = TokenizedPrompts(
    RANDOM.integers(2, 600, 9).tolist(), [RANDOM.integers(2, 600, length).tolist() for length in (7, 1, 12, 3, 3, 9, 5, 2)]
)
WHOLE = [PROMPTS.whole(i) for i in range(len(PROMPTS.suffixes))]


@pytest.fixture(scope="module")
def bases(tmp_path_factory, tokenizers):
    """Each family's tiny model, saved with a tokenizer, and loaded from there."""
    found = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        model = tiny_model(family)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter *= 5  # so that answers depend on what is read and where it stands
        model.save_pretrained(folder)
        tokenizers["opt"].save_pretrained(folder)
        found[family] = AutoModelForCausalLM.from_pretrained(folder).eval()
    return found


def logprobs(logits, labels):
    return logits.detach().log_softmax(-1)[..., labels].double().numpy()


def start(model, case):
    """The model as it starts training in a case, and its label ids."""
    method = case.removeprefix("vanilla ")
    labels = [17, 99, 5]
    if case != method:
        put_head(model, "linear" if method == "full" else "fully-connected", NAMES, seed=0)
        labels = [0, 1, 2]
    part, settings = METHODS[method]
    return adapted(model, part, **settings), labels


def train(model, labels):
    """A few steps of AdamW on the prompts; frozen weights must stay as they were and trained ones move."""
    inert = {id(bias) for bias, keys in key_biases(bare_model(model)) if len(keys) == len(bias)}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    answers = torch.tensor([labels[i % len(labels)] for i in range(len(WHOLE))])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    model.train()
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(answer_logits(model, left_pad(WHOLE)), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (parameter.requires_grad and id(parameter) not in inert), name


def one_by_one(model, labels):
    with torch.no_grad():
        logits = torch.stack([model(input_ids=torch.tensor([tokens])).logits[0, -1] for tokens in WHOLE])
    return logprobs(logits, labels)


def right_padded(model, labels):
    """A reference: padding after the prompts, all logits, from which those at the answer position are taken."""
    width = max(map(len, WHOLE))
    ids = torch.tensor([tokens + [1] * (width - len(tokens)) for tokens in WHOLE])  # 1 is a token that prompts may hold
    mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in WHOLE])
    positions = {"position_ids": torch.arange(width).expand_as(ids)} if "position_ids" in forward_parameters(model) else {}
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, **positions).logits
    ends = torch.tensor([logits.shape[1] - width + len(tokens) - 1 for tokens in WHOLE])  # virtual tokens may come first
    return logprobs(logits[torch.arange(len(WHOLE)), ends], labels)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_scores_alike_however_it_is_asked_and_when_loaded_again(bases, family, case, tmp_path, tokenizers):
    base = copy.deepcopy(bases[family])
    if case.endswith("bitfit") and family in WITHOUT_BIASES:
        with pytest.raises(InputError, match=f"--bitfit: {base.name_or_path} has no bias terms"):
            check_part(base, part_flags("bitfit"))
        return
    model, labels = start(base, case)
    train(model, labels)
    expected = one_by_one(model, labels)
    assert np.abs(expected - logprobs(answer_logits(bases[family], left_pad(WHOLE)), labels)).max() > 1e-3
    close = {"atol": 1e-5, "rtol": 0}
    with torch.no_grad():
        np.testing.assert_allclose(logprobs(answer_logits(model, left_pad(WHOLE)), labels), expected, **close)
    np.testing.assert_allclose(right_padded(model, labels), expected, **close)
    for queries_per_row in (1, 8):
        packed = score_answers(model, PROMPTS, labels, queries_per_row=queries_per_row)
        np.testing.assert_allclose(packed.label_logprobs, expected, **close)

    save_student(model, tmp_path)
    if not (tmp_path / "adapter_config.json").exists():
        tokenizers["opt"].save_pretrained(tmp_path)  # an adapter without one takes its base's
    loaded, tokenizer = load_model(str(tmp_path), **HOW)
    assert tokenizer("x Yes").input_ids[0] == 1
    assert (classification_head(loaded) is not None) == case.startswith("vanilla")
    again = score_answers(loaded, PROMPTS, labels, queries_per_row=8)
    np.testing.assert_allclose(again.label_logprobs, expected, **close)
    assert virtual_tokens(loaded) == (3 if case.endswith(("soft_prompt", "cartridge")) else 0)
    if case in ("full", "freeze_embeddings", "head_only", "bitfit"):
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    elif case in ("lora", "query-value", "ia3", "soft_prompt", "cartridge"):
        plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    else:
        return
    np.testing.assert_allclose(one_by_one(plain.eval(), labels), expected, **close)
    assert type(bare_model(plain)) is type(bases[family])
