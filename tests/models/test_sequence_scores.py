from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from llmft.models.label_scores import left_pad
from llmft.models.packed_attention import packed_batch
from llmft.models.sequence_scores import LabelSequences, masked_row, sequence_batch, sequence_label_logits
from llmft.prompts.tokens import TokenizedPrompts
from tests.conftest import tiny_model
from tests.models.test_shared_prefix import FAMILIES, prompts
from tests.scoring import AnswerScores, score_answers, score_sequences

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
    row = masked_row([[1, 2], [3]], [[7], [8, 9]], 1, torch.float32, torch.device("cpu"))
    assert row["input_ids"].tolist() == [[1, 2, 7, 8, 9, 3, 7, 8, 9]]
    assert row["position_ids"].tolist() == [[1, 2, 3, 3, 4, 1, 2, 2, 3]]
    assert row["logits_to_keep"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
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
        row = masked_row([list(range(40))] * 5, [()], 100, torch.bfloat16, torch.device("meta"))
    assert row["attention_mask"].shape == (1, 1, 200, 300)
    assert max(size for device, size in made if device == "meta") == 200 * 300
    assert max(size for device, size in made if device == "cpu") == 200
    assert row.keys() == packed_batch([[1]]).keys()


def test_continuations_that_begin_others_are_read_off_them():
    assert LabelSequences.create([[1], [2]]).continuations == [()]
    assert LabelSequences.create([[1], [2, 3]]).continuations == [(2,)]
    assert LabelSequences.create([[2, 1], [2, 3, 4], [2, 3], [5, 3]]).continuations == [(2, 3), (5,)]
    with pytest.raises(ValueError, match="a label has no tokens"):
        LabelSequences.create([[1], []])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_sees_the_same_scores_and_the_gradients_of_whole_texts(family):
    model, found = tiny_model(family), prompts(3)
    labels = LabelSequences.create(SEQUENCES)
    whole = [found.whole(i) for i in range(len(found.suffixes))]
    batch = sequence_batch(whole, labels)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "position_ids"), (7, 2, 3 + 12 + 2)
    )
    scores = sequence_label_logits(model, batch | {"teacher_logprobs": torch.zeros(7, 4)}, labels)
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
    labels = LabelSequences.create(SEQUENCES)
    sequence_label_logits(model, sequence_batch([[5, 6, 7], [5]], labels), labels)
    assert shapes == [(4, 3, 600)]  # 2 prompts x 2 continuations, at most 1 + 2 rows each


def test_a_batch_of_labels_of_one_token_is_the_plain_batch():
    whole = [[5, 6, 7], [5]]
    batch, plain = sequence_batch(whole, LabelSequences.create([[1], [2]])), left_pad(whole)
    assert batch.keys() == plain.keys()
    assert all(torch.equal(batch[name][:, 0], plain[name]) for name in plain)
