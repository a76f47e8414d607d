"""Texts side by side in one row: the same answers and gradients as one by one, for every family that supports it."""

import copy

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PhimoeConfig

from llmft.models.reading import softmax
from llmft.models.reading.attention import NAME, LostKeysError, packed_attention, with_shared
from llmft.models.reading.batches import answer_logits, left_pad
from llmft.models.reading.kv_cache import encode, read_only
from llmft.models.reading.packing import can_pack, common_head, packed_batch
from llmft.models.reading.softmax import attend
from tests.conftest import CONFIGS, adapted, tiny_model
from tests.models.reading.test_reader import LABELS, one_by_one, prompts
from tests.scoring import score_answers

DTYPES = {"flash": torch.bfloat16, "efficient": torch.float32, "plain": torch.bfloat16}
TEXTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14], [3, 4, 5, 6, 7, 8, 9, 10, 11]] * 3
OTHERS = {"gptj", "gpt_neo", "falcon"}  # attention of their own
PLAIN = {"gemma2", "gpt_oss"}  # by products that are stored in full, or kernels and sinks
WINDOWS = {"mistral", "gemma3", "phi3", "olmo3"}  # of which others see fewer keys


def test_a_row_by_hand():
    batch = packed_batch([[5, 6], [7], [8, 9, 10]], start=4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert batch["position_ids"].tolist() == [[4, 5, 4, 4, 5, 6]]
    assert batch["attention_mask"].tolist() == [[[[0, 1, -1], [2, -1, -1], [3, 4, 5]]]]
    assert batch["logits_to_keep"].tolist() == [1, 2, 5]
    assert packed_batch([[5, 6], [7], [8, 9, 10]], counts=[2, 1, 2])["logits_to_keep"].tolist() == [0, 1, 2, 4, 5]


def test_what_all_begin_with_stands_in_the_row_once():
    texts, counts = [[1, 2, 5, 6], [1, 2, 7], [1, 2, 8, 9, 10]], [2, 1, 2]
    assert common_head(texts, counts) == 2
    batch = packed_batch(texts, counts=counts, head=2)
    assert batch["input_ids"].tolist() == [[1, 2, 5, 6, 7, 8, 9, 10]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[[[0, 1, 2, 3, -1], [0, 1, 4, -1, -1], [0, 1, 5, 6, 7]]]]
    assert batch["logits_to_keep"].tolist() == [2, 3, 4, 6, 7]
    assert common_head(texts, [2, 2, 2]) == 1  # logits are read behind it
    assert common_head([[1, *range(2 + i, 20 + i)] for i in range(4)], [1] * 4) == 0  # too little to matter


@pytest.mark.parametrize("shares", [False, True])
def test_a_row_can_be_pinned(shares):
    for tensor in packed_batch([[5, 6], [7], [8, 9, 10]], shares=shares).values():
        pinned = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)  # as `pin_memory` lays it out
        assert torch.equal(pinned.copy_(tensor), tensor)


def test_shared_keys_beside_the_rows_or_in_front_of_them_are_the_same():
    torch.manual_seed(1)
    query, (keys, values) = torch.randn(1, 4, 10, 8), torch.randn(2, 1, 2, 10, 8)
    front_keys, front_values = torch.randn(2, 1, 2, 7, 8)
    places = [packed_batch([[1] * 6, [2], [3] * 3], shares=shares)["attention_mask"] for shares in (False, True)]
    joined = [torch.cat([front, new], dim=2) for front, new in ((front_keys, keys), (front_values, values))]
    expected, _ = packed_attention(torch.nn.Module(), query, *joined, places[0])
    beside = with_shared(keys, front_keys), with_shared(values, front_values)
    found, _ = packed_attention(torch.nn.Module(), query, *beside, places[1])
    assert torch.equal(found, expected)
    for one, other in ((beside[0], values), (keys, beside[1]), (beside[0] + 0, beside[1])):
        with pytest.raises(LostKeysError):
            packed_attention(torch.nn.Module(), query, one, other, places[1])


class Attended(TorchDispatchMode):
    """Records how many queries torch's attention compares with how many keys."""

    def __init__(self):
        super().__init__()
        self.queries = []  # (of all heads, keys)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if "scaled_dot_product" in operator.name():
            query, key, *_ = args
            self.queries.append((query[..., 0].numel(), key.shape[2]))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", sorted(CONFIGS.keys() - OTHERS - PLAIN - WINDOWS))
@torch.no_grad()
def test_in_the_last_layer_only_the_asked_tokens_look_at_the_shared_keys(family):
    model, logits = tiny_model(family), {}
    assert can_pack(model)
    encoded, heads = encode(model, [9, 8, 7, 6, 5]), model.config.num_attention_heads
    layers, tokens = model.config.num_hidden_layers, sum(map(len, TEXTS))
    counts = [min(len(text), 1 + i % 4) for i, text in enumerate(TEXTS)]
    for last_only in (True, False):
        batch = packed_batch(TEXTS, 5, shares=True, counts=counts)
        cache = read_only(encoded, readers=batch["logits_to_keep"] if last_only else None)
        with Attended() as attended:
            logits[last_only] = model(**batch, past_key_values=cache, use_cache=True).logits
        shared = [queries // heads for queries, keys in attended.queries if keys == 5]
        assert shared == [tokens] * (layers - 1) + [sum(counts) if last_only else tokens]
    torch.testing.assert_close(logits[True], logits[False], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", [0, 9])
@pytest.mark.parametrize("family", CONFIGS)
def test_families_that_pack_learn_the_same_packed_as_padded(family, head):
    model = tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 5 if parameter.ndim > 1 else 1
    other, answers = copy.deepcopy(model), torch.tensor([1, 2, 3, 4] * 3)
    assert can_pack(model) == (family not in OTHERS)
    if not can_pack(model):
        return
    results, texts = [], [[*range(40, 40 + head), *text] for text in TEXTS]
    for one, batch in ((model, packed_batch(texts, head=head)), (other, left_pad(texts))):
        logits = answer_logits(one, batch)
        torch.nn.functional.cross_entropy(logits, answers).backward()
        results.append((logits.detach(), {name: p.grad for name, p in one.named_parameters() if p.grad is not None}))
    (logits, gradients), (expected, others) = results
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_and_checkpointed_layers_pack_too(checkpointing):
    model = adapted(tiny_model("llama"), "lora", adapter_dim=2)
    assert can_pack(model)
    model.train()
    batch, gradients = packed_batch(TEXTS), []
    for _ in range(2):
        model.zero_grad()
        answer_logits(model, batch).logsumexp(-1).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_models_that_read_the_mask_themselves_are_not_packed():
    model = tiny_model("llama")
    model.config.output_router_logits = True
    assert not can_pack(model)


def test_half_precision_packs():
    model = tiny_model("llama").bfloat16()
    assert can_pack(model)
    with torch.no_grad():
        packed = answer_logits(model, packed_batch(TEXTS))
        padded = answer_logits(model, left_pad(TEXTS))
    assert packed.dtype == torch.bfloat16
    torch.testing.assert_close(packed, padded, atol=2e-2, rtol=0)


def test_windows_that_attention_is_not_told_of_or_another_attention_are_not_packed():
    assert not can_pack(tiny_model("llama", sliding_window=16))  # a setting that it does not use
    phimoe = PhimoeConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, sliding_window=16)
    assert not can_pack(AutoModelForCausalLM.from_config(phimoe))
    eager = tiny_model("llama")
    eager.set_attn_implementation("eager")
    assert not can_pack(eager)


@pytest.mark.parametrize("family", ["opt", "gpt2", "gpt_neox", "llama", "gemma3", "gemma2", "gpt_oss"])
def test_other_masks_are_those_of_sdpa(family):
    """Once a model packs, padded batches, plain prompts and generation must not change: to the bit if they used sdpa."""
    model = tiny_model(family)
    batch, ids = left_pad(TEXTS), torch.tensor([[4, 8, 12, 16]])
    kwargs = {"max_new_tokens": 5, "do_sample": False}
    before = answer_logits(model, batch), model(ids).logits, model.generate(ids, **kwargs)
    assert can_pack(model)
    assert model.config._attn_implementation == NAME
    after = answer_logits(model, batch), model(ids).logits, model.generate(ids, **kwargs)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(two, one, atol=1e-5 if family in PLAIN else 0, rtol=0)


def test_it_is_not_written_into_a_saved_model(tmp_path):
    model = tiny_model("opt")
    assert can_pack(model)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


# Softmax sums. The values that decide about the kernel represent devices that are not available.


@pytest.fixture(params=["cpu", "plain"])
def kernel(request, monkeypatch):
    monkeypatch.setattr(softmax, "kernel_for", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize(("causal", "keys", "scale"), [(True, 9, None), (False, 21, 0.3)])
def test_sums_are_those_of_the_softmax(kernel, causal, keys, scale):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, length, 8, generator=generator).double() for length in (9, keys, keys))
    found, sums = attend(query, key, value, is_causal=causal, scale=scale)
    products = torch.einsum("nhtd,nhsd->nhts", query, key) * (scale or 8**-0.5)
    if causal:
        products += torch.full((9, 9), -torch.inf).triu(1)
    torch.testing.assert_close(sums.double(), products.exp().sum(-1).log(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, products.softmax(-1) @ value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_products_give_what_the_kernel_gives(dtype, monkeypatch):
    query, key, value = (torch.randn(2, 3, 11, 16, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3))
    found, sums = attend(query, key, value, is_causal=True)
    monkeypatch.setattr(softmax, "kernel_for", lambda *_: "plain")
    plain, plain_sums = attend(query, key, value, is_causal=True)
    assert (plain.dtype, plain_sums.dtype) == (found.dtype, sums.dtype) == (dtype, torch.float32)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(plain, found, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(plain_sums, sums, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", ["opt", "llama", "gemma", "gpt_neox"])
def test_scores_behind_a_context_without_a_kernel(family, monkeypatch):
    monkeypatch.setattr(softmax, "kernel_for", lambda *_: "plain")
    model, found = tiny_model(family), prompts()
    expected, best = one_by_one(model, found)
    scores = score_answers(model, found, LABELS, queries_per_row=4)
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=1e-5)
    assert scores.best_token.tolist() == best.tolist()


@pytest.mark.parametrize("name", DTYPES)
def test_kernels_of_gpus_take_and_give_these_shapes(name, monkeypatch):
    """On tensors without values; a row of 45 tokens, not a multiple of the size to which kernels pad sums."""
    monkeypatch.setattr(softmax, "kernel_for", lambda *_: name)
    places = packed_batch([[1] * 30, [2], [3] * 14])["attention_mask"].to("meta")
    query = torch.empty(1, 4, 45, 16, dtype=DTYPES[name], device="meta")
    keys = torch.empty(1, 2, 12 + 45, 16, dtype=DTYPES[name], device="meta")
    found, _ = packed_attention(torch.nn.Module(), query, keys, keys, places, scaling=0.3)
    assert (found.shape, found.dtype) == ((1, 45, 4, 16), DTYPES[name])
    own, sums = attend(query, query, query, is_causal=True)
    assert (own.shape, sums.shape, sums.dtype) == (query.shape, (1, 4, 45), torch.float32)
    if name != "flash":  # which takes no mask
        found, _ = packed_attention(torch.nn.Module(), query, keys, keys, places, sliding_window=20)
        assert (found.shape, found.dtype) == ((1, 45, 4, 16), DTYPES[name])


@pytest.mark.parametrize(
    ("width", "flash", "efficient", "expected"),
    [(64, True, True, "flash"), (64, False, True, "efficient"), (20, True, False, "plain"), (64, False, False, "plain")],
)
def test_a_gpu_has_the_kernel_that_torch_says_is_fit(width, flash, efficient, expected, monkeypatch):
    monkeypatch.setattr(softmax, "can_use_flash_attention", lambda _: flash)
    monkeypatch.setattr(softmax, "can_use_efficient_attention", lambda _: efficient)
    with FakeTensorMode():
        one = torch.empty(1, 2, 5, width, dtype=torch.bfloat16, device="cuda")
        assert softmax.kernel_for(one, one, one, None, True) == expected
