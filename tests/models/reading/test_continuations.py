from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from llmft.models.parts import head
from llmft.models.reading.batches import BatchSize, answer_logits
from llmft.models.reading.continuations import Continued, LabelSequences, masked_row, padded_batch
from llmft.models.reading.packing import packed_batch
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import CONFIGS, tiny_model
from tests.models.reading.test_reader import FAMILIES, prompts
from tests.scoring import AnswerScores, read_logits, score_answers, score_sequences

SEQUENCES = [[17, 99], [5], [17, 99, 8], [30, 4]]  # of several lengths; the first begins the third


def one_by_one(model, found, sequences=SEQUENCES):
    """(N, L) by a plain forward pass over every prompt with every label, and the most probable first token."""
    scores = torch.empty(len(found.suffixes), len(sequences), dtype=torch.float64)
    best = []
    for i in range(len(found.suffixes)):
        prompt = found.whole(i)
        for j, sequence in enumerate(sequences):
            logprobs = model(torch.tensor([prompt + sequence])).logits[0].double().log_softmax(-1)
            scores[i, j] = sum(logprobs[len(prompt) - 1 + t, token] for t, token in enumerate(sequence))
        best.append(int(logprobs[len(prompt) - 1].argmax()))
    return scores, best


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", [0, 40])
@pytest.mark.parametrize("queries_per_row", [1, 3, 100])
@torch.no_grad()
def test_scores_are_those_of_whole_texts(family, prefix, queries_per_row):
    model, found = tiny_model(family), prompts(prefix)
    scores = score_sequences(model, found, SEQUENCES, queries_per_row=queries_per_row)
    expected, best = one_by_one(model, found)
    assert isinstance(scores, AnswerScores)
    assert scores.label_logprobs.dtype == np.float64
    np.testing.assert_allclose(scores.label_logprobs, expected, atol=2e-5)
    assert scores.best_token.tolist() == best
    assert scores.scored == list(range(len(found.suffixes)))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_labels_of_one_token_are_scored_as_ever(family):
    model, found = tiny_model(family), prompts()
    scores = score_sequences(model, found, [[17], [99], [5]], queries_per_row=3)
    answers = score_answers(model, found, [17, 99, 5], queries_per_row=3)
    np.testing.assert_array_equal(scores.label_logprobs, answers.label_logprobs)
    assert (scores.tokens, scores.padding_tokens) == (answers.tokens, answers.padding_tokens)


the_model = cache(tiny_model)
LABELS = st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=4), min_size=1, max_size=5, unique_by=tuple)


@given(LABELS, st.sampled_from(["opt", "falcon"]))
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_any_labels_that_share_beginnings_or_not(sequences, family):
    model, found = the_model(family), TokenizedPrompts([8, 3], [[5], [6, 7, 2]])
    scores = score_sequences(model, found, sequences, queries_per_row=2)
    np.testing.assert_allclose(scores.label_logprobs, one_by_one(model, found, sequences)[0], atol=2e-5)


def test_each_token_goes_through_the_model_once_and_only_asked_rows_are_projected():
    model, found = tiny_model("opt"), prompts()
    lengths, projected = [], []
    model.model.decoder.embed_tokens.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    model.lm_head.register_forward_hook(lambda module, inputs, output: projected.append(output.shape[1]))
    scores = score_sequences(model, found, SEQUENCES, queries_per_row=2)
    continued = 2 + 1  # (17, 99), of which (17,) is the beginning, and (30,)
    n = len(found.suffixes)
    assert sum(lengths) == len(found.prefix) + sum(map(len, found.suffixes)) + n * continued == scores.tokens
    assert sum(projected) == 1 + n * (1 + continued)
    assert scores.padding_tokens == 0


def test_a_packed_row_by_hand():
    prompts = Continued([4], [[1, 2], [3]], [2, 1], [[[7], [8, 9]], [[7], [8, 9]]])
    row = masked_row(prompts, 1, torch.float32, torch.device("cpu"))
    assert row["input_ids"].tolist() == [[1, 2, 7, 8, 9, 3, 7, 8, 9]]
    assert row["position_ids"].tolist() == [[1, 2, 3, 3, 4, 1, 2, 2, 3]]
    assert row["logits_to_keep"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert (row["attention_mask"][0, 0] == 0).int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 0, 1, 0],
        [1, 0, 0, 0, 0, 0, 1, 0, 1, 1],
    ]


def test_a_mask_is_made_on_the_device_it_is_for():
    made = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **kwargs or {})
            made.append((found.device.type, found.numel()))
            return found

    with Seen():
        prompts = Continued([], [list(range(40))] * 5, [1] * 5, [()] * 5)
        row = masked_row(prompts, 100, torch.bfloat16, torch.device("meta"))
    assert row["attention_mask"].shape == (1, 1, 200, 300)
    assert max(size for device, size in made if device == "meta") == 200 * 300
    assert max(size for device, size in made if device == "cpu") == 200
    assert row.keys() == packed_batch([[1]]).keys()


def test_continuations_that_begin_others_are_read_off_them():
    assert LabelSequences.create([[1], [2]]).continuations == []
    assert LabelSequences.create([[1], [2, 3]]).continuations == [(2,)]
    assert LabelSequences.create([[2, 1], [2, 3, 4], [2, 3], [5, 3]]).continuations == [(2, 3), (5,)]
    with pytest.raises(ValueError, match="a label has no tokens"):
        LabelSequences.create([[1], []])
    with pytest.raises(ValueError, match="answer 1 has no tokens"):
        Continued.by_answers(TokenizedPrompts([], [[1], [2]]), [[3], []])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_sees_the_same_scores_and_the_gradients_of_whole_texts(family):
    model, found = tiny_model(family), prompts(3)
    labels = LabelSequences.create(SEQUENCES)
    scores = labels.logprobs(answer_logits(model, padded_batch(Continued.by_labels(found, labels))))
    expected, _ = one_by_one(model, found)
    torch.testing.assert_close(scores.double(), expected, atol=2e-5, rtol=0)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    mix = torch.linspace(-1, 1, scores.numel()).reshape(scores.shape)
    gradients = torch.autograd.grad((scores * mix).mean(), weights)
    wanted = torch.autograd.grad((expected * mix).mean(), weights)
    for found_gradient, wanted_gradient in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found_gradient, wanted_gradient, atol=1e-5, rtol=1e-3)


def test_training_projects_the_last_rows_only():
    model, shapes = tiny_model("llama"), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    prompts = Continued.by_labels(TokenizedPrompts([], [[5, 6, 7], [5]]), LabelSequences.create(SEQUENCES))
    answer_logits(model, padded_batch(prompts))
    assert shapes == [(4, 3, 600)]  # 2 prompts x 2 continuations, at most 1 + 2 rows each


ANSWERS = [[17, 99, 4], [8], [30, 4], [5, 5, 5, 5, 9], [99], [2, 3, 7], [17, 4]]  # of a token or more


def nll_and_topk(model, found, answers=ANSWERS, k=3):
    """(P,) and (P, k) by a plain forward pass over every prompt with its answer."""
    rows, tokens = [], [token for answer in answers for token in answer]
    for i, answer in enumerate(answers):
        prompt = found.whole(i)
        rows.append(model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1])
    logprobs = torch.cat(rows).log_softmax(-1)
    return -logprobs[range(len(tokens)), tokens], logprobs.topk(k)


def read_answers(model, found, answers=ANSWERS, k=3, size=3):
    tokens = torch.tensor([token for answer in answers for token in answer])

    def keep(logits, positions):
        logprobs = logits.log_softmax(-1)
        (largest, where), nll = logprobs.topk(k), -logprobs.gather(1, tokens[positions][:, None])[:, 0]
        return {"nll": nll, "largest": largest, "tokens": where}

    prompts = Continued.by_answers(found, answers)
    assert prompts.offsets.tolist() == np.cumsum([0, *map(len, answers)]).tolist()
    return read_logits(model, prompts, keep, size=BatchSize(size, 10**9))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("prefix", [0, 40])
@torch.no_grad()
def test_answers_of_several_tokens_are_read_as_in_whole_texts(family, prefix):
    """Packed after a shared prefix, or whole for models that cannot share one."""
    model, found = tiny_model(family), prompts(prefix)
    nll, largest = nll_and_topk(model, found)
    for size in (1, 3, 100):
        kept = read_answers(model, found, size=size).arrays
        np.testing.assert_allclose(kept["nll"], nll, atol=1e-5)
        np.testing.assert_allclose(kept["largest"], largest.values, atol=1e-5)
        np.testing.assert_array_equal(kept["tokens"], largest.indices)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "granite", "cohere", "own"])  # the last four change logits
@pytest.mark.parametrize("sequences", [None, SEQUENCES])
@torch.no_grad()
def test_logits_are_made_in_pieces_where_they_are_many(family, sequences, monkeypatch):
    monkeypatch.setattr(head, "LOGITS", 4 * 600)
    model, found, made = tiny_model("llama" if family == "own" else family), prompts(), []
    if family == "own":  # in a way that only its code knows
        model.register_forward_hook(lambda module, inputs, output: output | {"logits": output.logits * 2})
    (nll, _), (expected, _), original = nll_and_topk(model, found), one_by_one(model, found), model.lm_head.forward
    model.lm_head.forward = lambda hidden: made.append(hidden[..., 0].numel()) or original(hidden)
    if sequences is None:
        np.testing.assert_allclose(read_answers(model, found, size=100).arrays["nll"], nll, atol=1e-5)
    else:
        scores = score_sequences(model, found, sequences, queries_per_row=100)
        np.testing.assert_allclose(scores.label_logprobs, expected, atol=2e-5)
    assert (max(made) <= 4) == (family != "own")


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.sampled_from(["opt", "falcon"]), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_any_lengths_of_answers(lengths, family, size):
    rng = np.random.default_rng(len(lengths))
    found = TokenizedPrompts([8, 3], [rng.integers(2, 600, 1 + i % 3).tolist() for i in range(len(lengths))])
    answers = [rng.integers(2, 600, length).tolist() for length in lengths]
    nll, _ = nll_and_topk(the_model(family), found, answers)
    np.testing.assert_allclose(read_answers(the_model(family), found, answers, size=size).arrays["nll"], nll, atol=1e-5)
