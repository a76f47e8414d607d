"""Layers in which a token sees only the last tokens of its prompt: contexts and queries longer and shorter than the window."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma4TextConfig

from llmft.models.reading.batches import BatchSize, answer_logits, left_pad
from llmft.models.reading.continuations import Continued
from llmft.models.reading.packing import can_pack, packed_batch
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import adapted
from tests.models.reading.test_generation import plain, writer, written
from tests.scoring import read_logits

FAMILIES = ["mistral", "phi3", "olmo3", "gemma2", "gemma3", "gpt_oss"]
BRANCHES = [(7,), (11, 12, 13, 14, 15)]


def tokens(count, seed=0):
    return torch.randint(2, 600, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


QUERIES = [tokens(count, seed) for seed, count in enumerate((7, 1, 9, 24, 2, 5), 1)]
MIDDLE = 10
"""Some queries and a context are shorter, others longer."""


def model_of(family, window):
    """A model that writes something different after each text, and whose log-probabilities are no larger than those of words."""
    model = writer(family, sliding_window=window)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 0.2
    return model


def read(model, prompts):
    """Log-probabilities (P, V) at all positions that are asked."""
    return read_logits(model, prompts, lambda logits, _: {"all": logits.log_softmax(-1)}, size=BatchSize(4, 10**9))


@torch.no_grad()
def one_by_one(model, prompts):
    """The same of every prompt and branch alone."""
    rows = []
    for text, count, branches in zip(prompts.texts, prompts.counts, prompts.branches, strict=True):
        whole = [*prompts.prefix, *text]
        rows.append(model(torch.tensor([whole])).logits[0, -count:])
        rows += [model(torch.tensor([[*whole, *branch]])).logits[0, -len(branch) :] for branch in branches]
    return torch.cat(rows).log_softmax(-1)


@pytest.mark.parametrize(("family", "window"), [*((family, MIDDLE) for family in FAMILIES), ("mistral", 2), ("gemma3", 80)])
def test_scores_and_answers_behind_a_context_are_those_of_whole_prompts(family, window):
    model = model_of(family, window)
    original = copy.deepcopy(model)
    for prefix in ([], tokens(2), tokens(21)):
        several = Continued(prefix, QUERIES, [min(len(query), 2) for query in QUERIES], [()] * len(QUERIES))
        branching = Continued(prefix, QUERIES, [1] * len(QUERIES), [()] * 3 + [BRANCHES] * 3)
        for prompts in (several, branching):
            kept = read(model, prompts)
            torch.testing.assert_close(torch.from_numpy(kept.arrays["all"]), one_by_one(original, prompts), atol=1e-5, rtol=0)
            count = sum(map(len, QUERIES)) + sum(len(branch) for branches in prompts.branches for branch in branches)
            assert (kept.tokens, kept.padding_tokens) == (len(prefix) + count, 0)
    found = TokenizedPrompts(prefix, QUERIES[:4])
    assert written(model, found).ids == [plain(original, found.whole(i)) for i in range(4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_longer_than_the_window_are_learned_packed_as_padded(family):
    model = model_of(family, 5)
    other, results = copy.deepcopy(model), []
    assert can_pack(model)
    for one, batch in ((model, packed_batch(QUERIES)), (other, left_pad(QUERIES))):
        logits = answer_logits(one.train(), batch)
        torch.nn.functional.cross_entropy(logits, torch.arange(len(QUERIES))).backward()
        results.append((logits.detach(), {name: p.grad for name, p in one.named_parameters() if p.grad is not None}))
    (logits, gradients), (expected, others) = results
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-5, rtol=1e-3, msg=name)


PARTS = {
    "lora": {"adapter_dim": 4},
    "soft_prompt": {"num_soft_prompt_tokens": 5},
    "cartridge": {"context_ids": tokens(9)},
}


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("window", [4, 12])
def test_students_read_alike_padded_and_behind_a_context(family, part, window):
    model = adapted(model_of(family, window), part, **PARTS[part]).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
        prompts = Continued(tokens(7), QUERIES, [1] * len(QUERIES), [()] * len(QUERIES))
        expected = one_by_one(model, prompts)
        padded = answer_logits(model, left_pad([[*prompts.prefix, *query] for query in QUERIES])).log_softmax(-1)
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=0)
    kept = read(model, prompts)
    torch.testing.assert_close(torch.from_numpy(kept.arrays["all"]), expected, atol=1e-5, rtol=0)
    assert kept.padding_tokens == 0


def test_layers_that_share_the_keys_of_others_read_the_whole_prompt():
    family = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
    sizes = {"head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 600}
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }
    config = Gemma4TextConfig(vocab_size=600, pad_token_id=0, **family, **sizes, **shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    original = copy.deepcopy(model)
    prompts = Continued(
        tokens(20), [tokens(9, seed) for seed in range(1, 5)], [4] * 4, [()] * 4
    )  # of equal length: no mask is needed
    torch.testing.assert_close(torch.from_numpy(read(model, prompts).arrays["all"]), one_by_one(original, prompts))
