"""Attention with its softmax sums: by every kernel the same numbers, or, where there is no device for one, the same shapes."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from llmft.models.reading import attention_sums
from llmft.models.reading.attention_sums import attend
from llmft.models.reading.packing import packed_attention, packed_batch
from tests.conftest import tiny_model
from tests.models.reading.test_reader import LABELS, one_by_one, prompts
from tests.scoring import score_answers

DTYPES = {"flash": torch.bfloat16, "efficient": torch.float32, "plain": torch.bfloat16}


@pytest.fixture(params=["cpu", "plain"])
def kernel(request, monkeypatch):
    monkeypatch.setattr(attention_sums, "_kernel", lambda *_: request.param)
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
    monkeypatch.setattr(attention_sums, "_kernel", lambda *_: "plain")
    plain, plain_sums = attend(query, key, value, is_causal=True)
    assert (plain.dtype, plain_sums.dtype) == (found.dtype, sums.dtype) == (dtype, torch.float32)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(plain, found, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(plain_sums, sums, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", ["opt", "llama", "gemma", "gpt_neox"])
def test_scores_behind_a_context_without_a_kernel(family, monkeypatch):
    monkeypatch.setattr(attention_sums, "_kernel", lambda *_: "plain")
    model, found = tiny_model(family), prompts()
    expected, best = one_by_one(model, found)
    scores = score_answers(model, found, LABELS, queries_per_row=4)
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=1e-5)
    assert scores.best_token.tolist() == best.tolist()


@pytest.mark.parametrize("name", DTYPES)
def test_kernels_of_gpus_take_and_give_these_shapes(name, monkeypatch):
    """On tensors without values; a row of 45 tokens, no multiple of what kernels fill sums up to."""
    monkeypatch.setattr(attention_sums, "_kernel", lambda *_: name)
    places = packed_batch([[1] * 30, [2], [3] * 14])["attention_mask"].to("meta")
    query = torch.empty(1, 4, 45, 16, dtype=DTYPES[name], device="meta")
    keys = torch.empty(1, 2, 12 + 45, 16, dtype=DTYPES[name], device="meta")
    found, _ = packed_attention(torch.nn.Module(), query, keys, keys, places, scaling=0.3)
    assert (found.shape, found.dtype) == ((1, 45, 4, 16), DTYPES[name])
    own, sums = attend(query, query, query, is_causal=True)
    assert (own.shape, sums.shape, sums.dtype) == (query.shape, (1, 4, 45), torch.float32)


@pytest.mark.parametrize(
    ("width", "flash", "efficient", "expected"),
    [(64, True, True, "flash"), (64, False, True, "efficient"), (20, True, False, "plain"), (64, False, False, "plain")],
)
def test_a_gpu_has_the_kernel_that_torch_says_is_fit(width, flash, efficient, expected, monkeypatch):
    monkeypatch.setattr(attention_sums, "can_use_flash_attention", lambda _: flash)
    monkeypatch.setattr(attention_sums, "can_use_efficient_attention", lambda _: efficient)
    with FakeTensorMode():
        one = torch.empty(1, 2, 5, width, dtype=torch.bfloat16, device="cuda")
        assert attention_sums._kernel(one, one, one, True) == expected
