"""Teachers of several contexts, read beforehand and online, on a tiny model with a real tokenizer."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from llmft.arguments.objective import Objective
from llmft.cost.phases import Phase
from llmft.distillation import teacher as teacher_module
from llmft.distillation.targets import mean_logprobs, support_targets
from llmft.distillation.teacher import Teacher, Teachers
from llmft.evaluation.answer_cache import AnswerCache
from llmft.evaluation.scorer import Asker
from llmft.models.reading.batches import BatchSize
from llmft.prompts.render import PromptFormat
from llmft.runs.content_cache import ContentCache
from tests.conftest import byte_level_bpe, tiny_model

QUERIES = [{"text1": f"the cat sat on {word} .", "text2": None, "label": i % 2, "idx": i} for i, word in enumerate("abcdefg")]
SHOWN = [
    [{"text1": f"a mat {word}", "text2": None, "label": i % 2, "idx": 90} for i, word in enumerate(words)]
    for words in ("xy", "no")
]
SUPPORTS = {"labels": {}, "labels_rest": {}, "topk": {"topk": 7}, "vocab": {}}


@pytest.fixture(scope="module")
def askers():
    model, tokenizer = tiny_model("opt"), byte_level_bpe("</s>")
    ask = PromptFormat("{text1} ?", "", r"\n", ("Yes", "No"))
    create = partial(Asker.create, model, tokenizer, ask, sample=QUERIES[0], batch_size=BatchSize(3))
    return tuple(create(demonstrations=shown) for shown in SHOWN)


def targets(askers, objective, **more):
    return Teacher(askers, QUERIES, objective, **more).precompute(Phase("teacher"))


def online(askers, objective, **more):
    return Teacher(askers, QUERIES, objective, frozen=partial(nullcontext, askers[0].model), **more)


IN_TURN = np.arange(len(QUERIES)) % 2


def vocab(asker):
    return targets((asker,), Objective(support="vocab")).logprobs


@pytest.mark.parametrize("support", SUPPORTS)
def test_several_contexts_teach_the_mean_of_their_distributions(askers, support):
    objective = Objective(support=support, **SUPPORTS[support])
    found = targets(askers, objective)
    whole = torch.stack([vocab(asker) for asker in askers])
    if support == "labels":
        expected = mean_logprobs(whole[..., askers[0].label_ids].log_softmax(-1))
    else:
        expected = support_targets(mean_logprobs(whole), support, label_ids=askers[0].label_ids, topk=objective.topk).logprobs
    torch.testing.assert_close(found.logprobs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logprobs.exp().sum(1), torch.ones(len(QUERIES)))


def test_in_turn_each_query_has_the_answer_of_one_context(askers):
    found = targets(askers, Objective(), context_of=IN_TURN).logprobs
    single = [targets((asker,), Objective()).logprobs for asker in askers]
    for i in range(len(QUERIES)):
        torch.testing.assert_close(found[i], single[i % 2][i], atol=1e-5, rtol=0)
    assert not torch.allclose(single[0], single[1], atol=1e-4)


@pytest.mark.parametrize("chunk", [2, 100])
def test_the_largest_of_a_mean_do_not_depend_on_how_many_are_read_at_once(askers, monkeypatch, chunk):
    expected = targets(askers, Objective(support="topk", topk=7))
    monkeypatch.setattr(teacher_module, "CHUNK", chunk)
    found = targets(askers, Objective(support="topk", topk=7))
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("turns", [False, True])
def test_online_answers_are_the_precomputed_ones(askers, support, contexts, turns):
    objective = Objective(support=support, **SUPPORTS[support])
    more = {"context_of": IN_TURN % contexts if turns else None}
    before = targets(askers[:contexts], objective, **more)
    teacher = online(askers[:contexts], objective, **more)
    for batch in ([0, 3, 5], [6], [1, 2, 4]):
        found = teacher.targets(batch)
        torch.testing.assert_close(found.logprobs, before.logprobs[batch], atol=1e-5, rtol=0)
        assert (found.tokens is None) == (support != "topk")
        if support == "topk":
            assert torch.equal(found.tokens, before.tokens[batch])


ANSWERS = [[17, 99, 4], [8], [30, 4], [5, 5, 5, 5, 9], [99], [2, 3, 7], [17, 4]]


@pytest.mark.parametrize("support", ["topk", "vocab"])
@pytest.mark.parametrize("context_of", [None, IN_TURN, np.array([1, 0, 0, 1, 1, 1, 0])])
@torch.no_grad()
def test_texts_are_answered_at_each_of_their_tokens(askers, support, context_of, monkeypatch):
    monkeypatch.setattr(teacher_module, "CHUNK", 5)
    objective, more = Objective(support=support, **SUPPORTS[support]), {"context_of": context_of, "answers": ANSWERS}
    expected = []
    for i, (query, answer) in enumerate(zip(QUERIES, ANSWERS, strict=True)):
        behind = []
        for asker in askers if context_of is None else [askers[context_of[i]]]:
            prompt = asker.prompts([query]).whole(0)
            logits = asker.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            behind.append(logits.log_softmax(-1))
        expected.append(support_targets(mean_logprobs(torch.stack(behind)), support, label_ids=(), topk=7))
    found = targets(askers, objective, **more)
    assert found.query_of.tolist() == [i for i, answer in enumerate(ANSWERS) for _ in answer]
    read_along, batch = online(askers, objective, **more).targets([4, 0, 3]), [4, 0, 3]
    for rows, whole in ((found.by_query(), expected), (read_along.by_query(), [expected[i] for i in batch])):
        for one, other in zip(rows, whole, strict=True):
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=2e-5, rtol=0)
            assert support == "vocab" or torch.equal(one.tokens, other.tokens)


def test_calibration_is_the_same_online(askers):
    calibrated = tuple(asker.__class__(**{**vars(asker), "calibrate": True}) for asker in askers)
    before = targets(calibrated, Objective()).logprobs
    torch.testing.assert_close(online(calibrated, Objective()).targets([2, 0]).logprobs, before[[2, 0]], atol=1e-5, rtol=0)
    assert not torch.allclose(before, targets(askers, Objective()).logprobs, atol=1e-3)


def test_a_context_is_encoded_once_online(askers):
    teacher, lengths = online(askers, Objective()), []
    embeddings = askers[0].model.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    for _ in range(3):
        teacher.targets([0, 1])
    handle.remove()
    prompts = [asker.prompts(QUERIES) for asker in askers]
    assert sum(lengths) == sum(len(one.prefix) + 3 * sum(map(len, one.suffixes[:2])) for one in prompts)


def test_the_mean_of_scores_counts_every_context(askers):
    teachers, phase = Teachers(askers), Phase("eval")
    found = teachers.score(QUERIES, phase)
    single = [asker.score(QUERIES, Phase("eval")) for asker in askers]
    np.testing.assert_allclose(
        np.exp(found.label_logprobs), np.mean([np.exp(s.label_logprobs) for s in single], axis=0), atol=1e-9
    )
    assert phase.examples == 2 * len(QUERIES)


@pytest.mark.parametrize("support", SUPPORTS)
def test_kept_answers_are_taken_up_to_the_bit_and_without_a_forward_pass(askers, tmp_path, support):
    objective, model = Objective(support=support, **SUPPORTS[support]), askers[0].model
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))

    def cached(texts=askers):
        cache = AnswerCache.create(ContentCache(tmp_path), model, askers[0].tokenizer, BatchSize(3))
        return tuple(asker.__class__(**{**vars(asker), "cache": cache}) for asker in texts), cache

    first = targets(cached()[0], objective)
    reads = len(calls)
    assert reads > 0
    again, cache = cached()
    second = targets(again, objective)
    assert len(calls) == reads
    assert torch.equal(first.logprobs, second.logprobs)
    assert cache.saved["answers"] > 0 and cache.saved["tokens"] > 0
    shown = tuple({**row, "text1": row["text1"].replace("mat", "map")} for row in askers[0].demonstrations)
    changed = askers[0].__class__(**{**vars(askers[0]), "demonstrations": shown})
    targets(cached((changed,))[0], objective)  # one character
    assert len(calls) > reads
    reads = len(calls)
    with torch.no_grad():
        bias = model.model.decoder.final_layer_norm.bias
        bias += 1e-3
        targets(cached()[0], objective)  # other weights
        bias -= 1e-3
    assert len(calls) > reads
    handle.remove()
