from itertools import pairwise

import numpy as np
import pytest
import torch

from llmft.errors import InputError
from llmft.models.parts.head import untie
from llmft.models.reading import reader, shared_prefix
from llmft.models.reading.batches import BatchSize
from llmft.models.reading.continuations import Continued
from llmft.models.reading.generation import Generation, RowSampler, drawing_device, uniform_numbers
from llmft.models.reading.kv_cache import kv_bytes_per_token
from llmft.models.reading.shared_prefix import open_prefix
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import CONFIGS, adapted, tiny_model
from tests.models.reading import test_reader

TOKENS = 6
GREEDY = Generation(TOKENS)


def writer(family, **changes):
    """A tiny model that writes something different after each text: weights matter, and its output layer does not repeat its
    input."""
    model = tiny_model(family, **changes)
    untie(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 6 if weight.ndim > 1 else 1
        head = model.get_output_embeddings().weight
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(1)))
    return model


def prompts(prefix=40):
    """A few of different lengths."""
    found = test_reader.prompts(prefix)
    return TokenizedPrompts(found.prefix, found.suffixes[:5])


def written(model, found, generation=GREEDY, size=3, tokenizer=None):
    with open_prefix(model, found.prefix, BatchSize(size, 10**9)) as behind:
        return behind.generate(found, generation, tokenizer)


def plain(model, prompt):
    """What transformers' `generate` writes after one prompt."""
    settings = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()


@torch.no_grad()
def by_hand(model, prompt):
    """The same with a pass over the whole text for each token."""
    ids = list(prompt)
    for _ in range(TOKENS):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def cut(answers, ends):
    """Answers up to and including the first of the tokens that end them."""
    return [answer[: next((i + 1 for i, token in enumerate(answer) if token in ends), None)] for answer in answers]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("prefix", [3, 40])
def test_answers_are_those_of_plain_generate_on_whole_prompts(family, prefix):
    model, found = writer(family), prompts(prefix)
    expected = [plain(model, found.whole(i)) for i in range(len(found.suffixes))]
    assert len(set(map(tuple, expected))) == len(expected)  # they depend on what is read
    assert written(model, found).ids == expected
    ends = (expected[0][2], expected[3][4], 599)
    answers = written(model, found, Generation(TOKENS, end_ids=ends), size=100)
    assert answers.ids == cut(expected, ends) != expected
    assert answers.scored == list(range(len(found.suffixes)))


PARTS = {
    "lora": {"adapter_dim": 4},
    "soft_prompt": {"num_soft_prompt_tokens": 5},
    "cartridge": {"context_ids": list(range(2, 20)), "cartridge_tokens": 9},
}


@pytest.mark.parametrize("family", ["opt_post_norm", "gptj", "gemma2", "falcon"])  # keys beside, in front, in windows; whole
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("prefix", [0, 12])
def test_students_write_behind_what_they_have_learned(family, part, prefix):
    if part == "cartridge" and family == "falcon":
        pytest.skip("cannot have one")
    model, found = writer(family), prompts(prefix)
    model = adapted(model, part, **PARTS[part]).eval()
    base = written(model.get_base_model(), found).ids
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    expected = [by_hand(model, found.whole(i)) for i in range(len(found.suffixes))]
    assert written(model, found).ids == expected != base


def test_an_attention_that_takes_no_mask_of_ours_writes_behind_a_cartridge_and_whole_prompts(monkeypatch):
    model, found = adapted(writer("llama"), "cartridge", **PARTS["cartridge"]), prompts()
    expected = written(model, found)
    monkeypatch.setattr(reader, "can_share", lambda model: False)
    whole = written(model, found)
    assert whole.ids == expected.ids
    assert whole.tokens == expected.tokens + len(found.prefix) * (len(found.suffixes) - 1)


def test_prompts_have_to_begin_with_the_prefix():
    found = prompts()
    with open_prefix(writer("llama"), [], BatchSize(4)) as behind, pytest.raises(ValueError, match="another prefix"):
        behind.generate(found, GREEDY, None)


def test_a_prefix_goes_through_the_model_once_whatever_is_asked_behind_it_and_each_token_counts_once():
    model, found, lengths = writer("llama"), prompts(), []
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[:2].numel()))
    asked = Continued.by_answers(found, [[3, 4]] * len(found.suffixes))
    with open_prefix(model, found.prefix, BatchSize(100)) as behind:
        assert lengths == []
        kept = behind.read(asked, lambda logits, positions: {"best": logits.argmax(-1)})
        answers = behind.generate(found, GREEDY, None)
        again = behind.generate(found, Generation(TOKENS, end_ids=(answers.ids[0][1],)), None)
    suffixes = [*map(len, found.suffixes)]
    assert lengths[0] == len(found.prefix)
    assert kept.tokens == len(found.prefix) + sum(suffixes) + len(suffixes)
    assert answers.tokens == sum(suffixes) + len(suffixes) * (TOKENS - 1)
    assert answers.padding_tokens == max(suffixes) * len(suffixes) - sum(suffixes)
    assert again.tokens == sum(suffixes) + sum(len(ids) - 1 for ids in again.ids) < answers.tokens
    assert sum(work.tokens + work.padding_tokens for work in (kept, answers, again)) == sum(lengths)


def test_the_prefixs_keys_are_held_once_for_a_batch():
    model, found, shapes = writer("llama"), prompts(50), set()

    class Held(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            result = operator(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 4 and result.shape[2] >= len(found.prefix):
                shapes.add(len(result))
            return result

    with Held():
        written(model, found, size=100)
    assert shapes == {1}


@pytest.mark.parametrize("name", ["keys", "values"])
def test_a_model_that_changes_keys_behind_its_cache_gets_them_in_front_of_each_row(name):
    model, found = writer("llama"), prompts()
    expected = written(model, found)
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "past_key_values": test_reader.Changing(kwargs["past_key_values"], name)}),
            with_kwargs=True,
        )
    assert written(model, found) == expected


def test_no_setting_of_a_checkpoint_leaks_in():
    model, found = writer("llama"), prompts()
    expected = written(model, found).ids
    settings = model.generation_config
    settings.update(do_sample=True, temperature=9.0, repetition_penalty=9.0, eos_token_id=expected[0][0], min_new_tokens=3)
    settings.update(forced_eos_token_id=7, suppress_tokens=expected[0], stop_strings=["a"], max_length=3)
    assert written(model, found).ids == expected
    assert model.generation_config is settings


def test_a_text_that_ends_answers_may_span_tokens_and_begins_behind_the_prompt(tokenizers):
    tokenizer, model = tokenizers["gpt2"], writer("gpt2")
    found = prompts()
    whole = written(model, found).ids
    text = tokenizer.decode(whole[2])
    first, second = (len(tokenizer.decode(whole[2][:count])) for count in (3, 4))
    stop = text[first - 1 : second]  # across the border of two tokens
    assert stop not in tokenizer.decode(whole[2][:3])
    found = TokenizedPrompts(found.prefix, [[*suffix, *tokenizer(stop).input_ids] for suffix in found.suffixes])
    whole = written(model, found).ids
    stop = tokenizer.decode(whole[2])[1:4]
    answers = written(model, found, Generation(TOKENS, stop=(stop, "nowhere")), tokenizer=tokenizer).ids
    assert answers != whole
    for answer, longer in zip(answers, whole, strict=True):
        assert answer == longer[: len(answer)]
        ended = [stop in tokenizer.decode(answer[:count]) for count in range(1, len(answer) + 1)]
        assert ended == [False] * (len(answer) - 1) + [len(answer) < TOKENS or ended[-1]]


def test_drawn_answers_depend_on_the_seed_and_the_prompt_alone():
    model, found = writer("llama"), prompts()
    generation = Generation(TOKENS, temperature=2.0, seed=3)
    answers = written(model, found, generation, size=100).ids
    assert written(model, found, generation, size=1).ids == answers != written(model, found).ids
    alone = TokenizedPrompts([], [found.whole(4)])
    assert written(model, alone, generation).ids == answers[4:5]
    assert written(model, found, Generation(TOKENS, temperature=2.0, seed=4)).ids != answers
    assert written(model, found, Generation(TOKENS, temperature=1e-9)).ids == written(model, found).ids
    assert generation.key != Generation(TOKENS, temperature=2.0, seed=4).key
    assert Generation(TOKENS, seed=3).key == Generation(TOKENS, seed=4).key


def test_tokens_are_drawn_as_often_as_they_are_probable():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(1, 50)).astype("float32") * 3)
    numbers = uniform_numbers([[row, 7] for row in range(3000)], Generation(2, temperature=1.5))
    for step in range(2):
        left = RowSampler(numbers, 4, 1.5)(torch.zeros(3000, 4 + step), logits.expand(3000, -1))
        assert ((left > -torch.inf).sum(1) == 1).all()
        shares = np.bincount(left.argmax(1), minlength=50) / 3000
        np.testing.assert_allclose(shares, (logits[0] / 1.5).softmax(-1), atol=0.03)


@pytest.mark.parametrize(("deterministic", "drawn_on"), [(False, ["cpu", "cuda", "cpu"]), (True, ["cpu"] * 3)])
def test_tokens_are_drawn_where_the_device_can(monkeypatch, deterministic, drawn_on):
    """On a GPU, sums over tokens raise an error where torch must be deterministic."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    assert [drawing_device(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == drawn_on


def test_a_batch_that_memory_does_not_hold_is_halved():
    model, found, sizes = writer("opt"), prompts(), []
    expected = written(model, found)

    def project(module, inputs):
        sizes.append(len(inputs[0]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError

    model.lm_head.register_forward_pre_hook(project)
    with open_prefix(model, found.prefix, BatchSize(100)) as behind:
        answers = behind.generate(found, GREEDY, None)
        assert answers.ids == expected.ids
        assert answers.tokens == expected.tokens
    assert [size for size, before in pairwise(sizes) if size != before][:3] == [1, 5, 2]
    with pytest.raises(InputError, match="--max_batch_tokens 999: a batch of 5 queries does not fit in the memory of cpu"):
        read = BatchSize(100, 999)
        with open_prefix(model, found.prefix, read) as behind:
            behind.generate(found, GREEDY, None)


def test_batches_are_as_large_as_the_answers_may_get():
    model, found, sizes = writer("llama"), prompts(), []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    with open_prefix(model, found.prefix, BatchSize(100, 2 * (12 + TOKENS))) as behind:
        behind.generate(found, GREEDY, None)
    assert max(sizes) == 3


@pytest.mark.parametrize("world", [2, 5])
def test_ranks_share_the_answers(monkeypatch, world):
    model, found, gathered, scored = writer("opt"), prompts(), [], []
    expected = written(model, found, size=100)
    monkeypatch.setattr(shared_prefix, "all_gather", lambda value: gathered.append(value) or gathered)
    for rank in range(world):
        monkeypatch.setattr(shared_prefix, "rank_and_world", lambda rank=rank: (rank, world))
        answers = written(model, found, size=100)
        scored += answers.scored
        assert len(answers.scored) == len(found.suffixes[rank::world])  # whatever the batches
    assert answers.ids == expected.ids
    assert sorted(scored) == list(range(len(found.suffixes)))


@pytest.mark.parametrize("family", ["opt", "llama", "gemma3"])
def test_answers_that_have_ended_leave_the_batch(family):
    model, found, rows = writer(family), prompts(), []
    whole = written(model, found, size=100).ids
    ends = (whole[0][0], whole[1][1], whole[2][0])
    expected = cut(whole, ends)
    model.lm_head.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    drawn = Generation(TOKENS, temperature=1.0, end_ids=ends, seed=3)
    for generation in (Generation(TOKENS, end_ids=ends), drawn):
        one_by_one = written(model, found, generation, size=1).ids
        rows.clear()
        assert written(model, found, generation, size=100).ids == one_by_one
        assert rows[1] == len(found.suffixes)  # behind the prefix
        for step, batch in enumerate(rows[2:], start=1):
            assert batch < 2 * sum(len(ids) > step for ids in one_by_one)
        assert one_by_one == expected or generation is drawn


@pytest.mark.parametrize("family", CONFIGS)
def test_bytes_of_keys_and_values(family):
    model = tiny_model(family).to(torch.bfloat16)
    layers = model(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values.layers
    held = sum(tensor.numel() * 2 for layer in layers for tensor in (layer.keys, layer.values)) / 3
    plain = all(type(layer).__name__ == "DynamicLayer" for layer in layers)
    assert kv_bytes_per_token(model) == (held if plain else None)
