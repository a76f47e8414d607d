"""Fast ways of reading are used only where they agree with whole prompts."""

import math

import numpy as np
import pytest
import torch

from llmft.evaluation.answer_cache import AnswerCache
from llmft.models.reading import agreement, attention
from llmft.models.reading.agreement import BEHIND, BESIDE, disagreements
from llmft.models.reading.batches import BatchSize
from llmft.models.reading.reader import agreement_of
from llmft.runs.content_cache import ContentCache
from llmft.training.ft_trainer import collator
from tests.conftest import tiny_model
from tests.models.reading.test_reader import LABELS, one_by_one, prompts
from tests.scoring import score_answers

EXAMPLES = [{"input_ids": [5, 6, 7], "answer": 3}, {"input_ids": [8, 9], "answer": 4}]


def kernel_without_sums(attend):
    """Attention to shared keys whose softmax sums are wrong, as a device's kernel might return them."""

    def wrong(query, key, value, *, is_causal=False, **more):
        attended, sums = attend(query, key, value, is_causal=is_causal, **more)
        return attended, sums if is_causal else torch.zeros_like(sums)

    return wrong


def missing_kernel(attend):
    """A kernel that a device lacks: torch then raises this error."""

    def missing(*_args, **_kwargs):
        raise NotImplementedError("no such operator on this device")

    return missing


@pytest.fixture
def fresh(monkeypatch):
    """A process that has compared nothing yet."""
    monkeypatch.setattr(agreement, "_AGREEMENTS", {})


@pytest.fixture(params=[kernel_without_sums, missing_kernel])
def broken(fresh, monkeypatch, request):
    monkeypatch.setattr(attention, "attend", request.param(attention.attend))


def reads_whole(scores, texts):
    return scores.tokens == sum(len(texts.whole(i)) for i in range(len(texts.suffixes)))


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_behind_a_broken_kernel_prompts_are_read_whole_and_one_warning_says_so(family, capsys, broken, tmp_path):
    model, texts = tiny_model(family), prompts()
    for _ in range(2):
        scores = score_answers(model, texts, LABELS, queries_per_row=4)
        np.testing.assert_allclose(scores.label_logprobs, one_by_one(model, texts)[0], atol=1e-5)
        assert reads_whole(scores, texts)
    assert "logits_to_keep" not in collator(model, [])(EXAMPLES)
    (line,) = disagreements()
    assert capsys.readouterr().err == f"warning: {line}\n"
    assert f"{type(model).__name__} in float32 on cpu: logits of prompts read after a shared context are not" in line


def test_what_a_broken_kernel_has_answered_is_not_taken_from_the_cache(fresh, monkeypatch, tmp_path, tokenizers):
    keys = []
    for attend in (attention.attend, kernel_without_sums(attention.attend)):
        monkeypatch.setattr(attention, "attend", attend)
        monkeypatch.setattr(agreement, "_AGREEMENTS", {})
        cache = AnswerCache.create(ContentCache(str(tmp_path)), tiny_model("opt"), tokenizers["opt"], BatchSize(4))
        keys.append(cache.key({}))
    assert keys[0] != keys[1]


def test_packed_training_is_compared_too(fresh, monkeypatch):
    original = attention.scaled_dot_product_attention
    monkeypatch.setattr(attention, "scaled_dot_product_attention", lambda *args, **kwargs: original(*args, **kwargs) * 2)
    model = tiny_model("llama")
    assert agreement_of(model).differences[BEHIND] < 1e-5 < agreement_of(model).differences[BESIDE]
    assert "logits_to_keep" not in collator(model, [])(EXAMPLES)
    np.testing.assert_allclose(
        score_answers(model, prompts(0), LABELS, queries_per_row=4).label_logprobs, one_by_one(model, prompts(0))[0], atol=1e-5
    )


def test_short_prompts_reach_beyond_windows_of_any_width(fresh, monkeypatch):
    attend = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *args, mask=None, **more: attend(*args, mask=None, **more))
    model = tiny_model("gemma3", sliding_window=200)
    assert agreement_of(model).differences[BEHIND] > 0.1
    assert model.config.sliding_window == model.model.layers[0].self_attn.sliding_window == 200


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_models_are_compared_once_and_the_comparison_changes_nothing(fresh, dtype, capsys):
    model, texts, passes = tiny_model("qwen2").to(dtype), prompts(), []
    agreement._AGREEMENTS.clear()
    model.register_forward_hook(lambda module, inputs, output: passes.append(1))
    first = score_answers(model, texts, LABELS, queries_per_row=4)
    compared, second = len(passes), score_answers(model, texts, LABELS, queries_per_row=4)
    assert compared == 4 + len(passes) - compared  # a context, and prompts in two fast ways and as a whole
    assert first.tokens == second.tokens == len(texts.prefix) + sum(map(len, texts.suffixes))
    np.testing.assert_array_equal(first.label_logprobs, second.label_logprobs)
    assert agreement_of(model).holds
    assert not disagreements()
    assert not capsys.readouterr().err


def test_all_ranks_go_by_the_one_that_is_worst(fresh, monkeypatch):
    elsewhere = ({BEHIND: math.inf, BESIDE: 0.0}, "RuntimeError: no such operator")
    monkeypatch.setattr(agreement, "all_gather", lambda here: [here, elsewhere])
    model, texts = tiny_model("opt"), prompts()
    assert agreement_of(model).differences[BEHIND] == math.inf
    assert agreement_of(model).differences[BESIDE] < 1e-5
    assert reads_whole(score_answers(model, texts, LABELS, queries_per_row=4), texts)
    assert "no such operator" in disagreements()[0]


def test_weights_that_are_no_numbers_are_no_fault_of_the_device(fresh):
    model = tiny_model("opt")
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    assert agreement_of(model).holds


def test_a_model_without_fast_ways_is_not_compared(fresh):
    assert agreement_of(tiny_model("gpt_neo")).differences == {}
