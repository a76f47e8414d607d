import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmft.errors import InputError
from llmft.models.reading import reader, shared_prefix
from llmft.models.reading.batches import BatchSize, answer_logits, left_pad
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import adapted, tiny_model
from tests.scoring import score_answers, score_labels

LABELS = [17, 99, 5]
FAMILIES = ["opt", "gpt2", "llama", "gpt_neox", "mistral", "gpt_neo", "falcon"]


def prompts(prefix=40, seed=0):
    rng = np.random.default_rng(seed)
    suffixes = [rng.integers(2, 600, length).tolist() for length in (7, 1, 12, 3, 3, 9, 5)]
    return TokenizedPrompts(rng.integers(2, 600, prefix).tolist(), suffixes)


def one_by_one(model, found):
    with torch.no_grad():
        logits = torch.stack([model(torch.tensor([found.whole(i)])).logits[0, -1] for i in range(len(found.suffixes))])
    return logits.log_softmax(-1)[:, LABELS].double().numpy(), logits.argmax(-1).numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", [0, 1, 40])
@pytest.mark.parametrize("queries_per_row", [1, 3, 100])
def test_scores_are_those_of_whole_prompts(family, prefix, queries_per_row):
    model, found = tiny_model(family), prompts(prefix)
    scores = score_answers(model, found, LABELS, queries_per_row=queries_per_row)
    expected, best = one_by_one(model, found)
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=1e-5)
    assert scores.best_token.tolist() == best.tolist()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention):
    model, found = tiny_model("llama"), prompts()
    expected, _ = one_by_one(model, found)
    model.set_attn_implementation(attention)
    np.testing.assert_allclose(score_answers(model, found, LABELS, queries_per_row=4).label_logprobs, expected, atol=1e-5)


class TokensOfTensors(TorchDispatchMode):
    """Records the number of tokens in tensors shaped like keys or values, (1, heads, tokens, width)."""

    def __init__(self):
        super().__init__()
        self.tokens = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim == 4 and len(result) == 1:
            self.tokens.add(result.shape[2])
        return result


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "gpt_neox", "qwen3"])
def test_the_contexts_keys_reach_attention_without_a_copy(family):
    model, found, lengths = tiny_model(family), prompts(), []
    expected, _ = one_by_one(model, found)
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    with TokensOfTensors() as tensors:
        scores = score_answers(model, found, LABELS, queries_per_row=4)
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=1e-5)
    context, *rows = lengths
    assert context in tensors.tokens
    assert tensors.tokens.isdisjoint(context + row for row in rows)


class Changing:
    """A cache whose keys, or values, are changed by a layer before attention."""

    def __init__(self, cache, name):
        self.cache, self.name = cache, name

    def __getattr__(self, name):
        return getattr(self.cache, name)

    def update(self, *args):
        keys, values = self.cache.update(*args)
        return (keys * 1, values) if self.name == "keys" else (keys, values * 1)


@pytest.mark.parametrize("name", ["keys", "values"])
def test_a_model_that_changes_keys_behind_its_cache_gets_them_in_front_of_the_rows(name):
    model, found, lengths = tiny_model("llama"), prompts(), []
    expected, _ = one_by_one(model, found)
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "past_key_values": Changing(kwargs["past_key_values"], name)}),
            with_kwargs=True,
        )
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    scores = score_answers(model, found, LABELS, queries_per_row=4)
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=1e-5)
    first, again, *rest = lengths[1:]
    assert first == again  # seen at the first batch, not tried again at the second
    assert lengths[0] + again + sum(rest) == scores.tokens == len(found.prefix) + sum(map(len, found.suffixes))


def test_the_prefix_goes_through_the_model_once():
    model, found = tiny_model("opt"), prompts()
    lengths = []
    model.model.decoder.embed_tokens.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    scores = score_answers(model, found, LABELS, queries_per_row=2)
    assert sum(lengths) == len(found.prefix) + sum(map(len, found.suffixes)) == scores.tokens
    assert scores.padding_tokens == 0


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_long_context_is_encoded_in_chunks(family):
    model, found = tiny_model(family), prompts()
    lengths = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    scores = score_labels(model, found, [[label] for label in LABELS], BatchSize(100, 15))
    assert lengths[:3] == [15, 15, 10]
    assert max(lengths) <= 15
    expected, _ = one_by_one(model, found)
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=1e-5)


def test_a_batch_that_memory_does_not_hold_is_halved():
    model, found = tiny_model("opt"), prompts()
    labels, sizes, room = [[label] for label in LABELS], [], [2]

    def project(module, inputs):
        sizes.append(inputs[0].shape[1])
        if sizes[-1] > room[0]:
            raise torch.OutOfMemoryError

    expected, _ = one_by_one(model, found)
    model.lm_head.register_forward_pre_hook(project)
    scores = score_labels(model, found, labels, BatchSize(100))
    assert sizes == [1, 7, 3, 1, 2, 2, 2]  # the context's, of which one position is projected, then the queries'
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=1e-5)
    assert scores.tokens == len(found.prefix) + sum(map(len, found.suffixes))  # those that were read in the end
    with pytest.raises(InputError, match="--max_batch_tokens 999: a batch of 7 queries does not fit in the memory of cpu"):
        score_labels(model, found, labels, BatchSize(100, 999))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_that_fails_within_the_layers_leaves_nothing_in_the_cache(attention):
    model, found = tiny_model("opt"), prompts()
    model.set_attn_implementation(attention)
    reader.agreement_of(model)
    failures = [1]

    def fail(module, inputs, output):
        if len(failures) and output[0].shape[-2] > 40 - 1 and model.read_context:
            failures.pop()
            raise torch.OutOfMemoryError
        model.read_context = True

    model.read_context = False  # the first pass is the context's
    found = TokenizedPrompts(found.prefix, found.suffixes * 2)
    model.model.decoder.layers[0].self_attn.register_forward_hook(fail)
    scores = score_labels(model, found, [[label] for label in LABELS], BatchSize(100))
    assert not failures
    np.testing.assert_allclose(scores.label_logprobs, one_by_one(model, found)[0], atol=1e-5)


@pytest.mark.parametrize("family", ["gpt_neo", "falcon"])
def test_where_packing_would_be_wrong_whole_prompts_are_read_and_that_is_said(family, capsys):
    model, found = tiny_model(family), prompts()
    scores = score_answers(model, found, LABELS, queries_per_row=4)
    assert scores.tokens >= sum(len(found.whole(i)) for i in range(len(found.suffixes)))
    assert "every prompt is encoded whole" in capsys.readouterr().err


def test_queries_of_a_model_that_runs_along_the_row_are_read_apart_without_a_context_too():
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    config = MiniMaxConfig(**sizes, vocab_size=700, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1)
    assert "linear_attention" in config.layer_types
    model, found = MiniMaxForCausalLM(config).eval(), prompts(prefix=0)
    expected, _ = one_by_one(model, found)
    scores = score_answers(model, found, LABELS, queries_per_row=4).label_logprobs
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_changes_no_logits(family):
    model, found = tiny_model(family), prompts(3)
    whole = [found.whole(i) for i in range(len(found.suffixes))]
    with torch.no_grad():
        batch = answer_logits(model, left_pad(whole))
        alone = torch.cat([answer_logits(model, left_pad([tokens])) for tokens in whole])
    torch.testing.assert_close(batch, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_the_prompts_with_equally_many_forward_passes(monkeypatch, world):
    model, found = tiny_model("opt"), prompts(0)
    whole = score_answers(model, found, LABELS, queries_per_row=2)
    passes = []
    model.register_forward_hook(lambda module, inputs, output: passes.append(rank))
    gathered = []
    monkeypatch.setattr(shared_prefix, "all_gather", lambda value: gathered.append(value) or gathered)
    scored = []
    for rank in range(world):
        monkeypatch.setattr(shared_prefix, "rank_and_world", lambda rank=rank: (rank, world))
        scores = score_answers(model, found, LABELS, queries_per_row=2)
        scored += scores.scored
    assert sorted(scored) == list(range(len(found.suffixes)))
    assert len({passes.count(rank) for rank in range(world)}) == 1
    np.testing.assert_array_equal(scores.label_logprobs, whole.label_logprobs)


def test_no_logits_but_the_answers_are_made():
    model = tiny_model("llama")
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    answer_logits(model, left_pad([[5, 6, 7], [5]]))
    assert shapes == [(2, 1, 600)]


@pytest.mark.parametrize("family", ["opt", "gpt_neo"])  # packed; whole prompts, by the model of peft's
@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_model_in_mixed_precision_training_is_scored_in_its_weights_precision(family, adapter):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    model, found = adapted(tiny_model(family), adapter), prompts()
    expected = score_answers(model, found, LABELS, queries_per_row=4).label_logprobs
    AcceleratorState._reset_state(reset_partial_state=True)  # it is the process's, and other tests train in it
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    forward = prepared.forward
    assert forward is not prepared._original_forward
    np.testing.assert_array_equal(score_answers(prepared, found, LABELS, queries_per_row=4).label_logprobs, expected)
    assert prepared.forward is forward
    AcceleratorState._reset_state(reset_partial_state=True)


def test_scoring_leaves_the_model_as_it_was():
    model = tiny_model("opt").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score_answers(model, prompts(), LABELS, queries_per_row=4)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
