"""Teachers with several contexts, precomputed and online, on a tiny model with a real tokenizer."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from llmft.arguments.objective import Objective
from llmft.cost.phases import Phase
from llmft.distillation import teacher as teacher_module
from llmft.distillation.targets import mean_logprobs, support_targets
from llmft.distillation.teacher import Teacher
from llmft.distillation.trainer import skipping
from llmft.evaluation.answer_cache import AnswerCache, as_record
from llmft.evaluation.answers import ASKED
from llmft.evaluation.labels import Labels
from llmft.evaluation.scorer import MeanScorer, Scorer
from llmft.evaluation.texts import Texts
from llmft.models.reading.batches import BatchSize
from llmft.models.reading.continuations import LabelSequences
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat
from llmft.runs.content_cache import ContentCache
from tests.conftest import byte_level_bpe, tiny_model

ANSWERS = [[17, 99, 4], [8], [30, 4], [5, 5, 5, 5, 9], [99], [2, 3, 7], [17, 4]]
QUERIES = [
    {"text1": f"the cat sat on {word} .", "text2": None, "label": i % 2, "idx": i, "answer_ids": answer}
    for i, (word, answer) in enumerate(zip("abcdefg", ANSWERS, strict=True))
]
SHOWN = [
    [{"text1": f"a mat {word}", "text2": None, "label": i % 2, "idx": 90} for i, word in enumerate(words)]
    for words in ("xy", "no")
]
SUPPORTS = {"labels": {}, "labels_rest": {}, "topk": {"topk": 7}, "vocab": {}}


@pytest.fixture(scope="module")
def scorers():
    model, tokenizer = tiny_model("opt"), byte_level_bpe("</s>")
    prompters = [Prompter(tokenizer, PromptFormat("{text1} ?", "", r"\n", ("Yes", "No")), tuple(shown)) for shown in SHOWN]
    return tuple(Scorer.create(model, prompter, Labels, QUERIES[0], BatchSize(3)) for prompter in prompters)


def texts(scorer):
    return Texts.create(scorer.model, scorer.prompter, QUERIES[0])


def targets(scorers, objective, **more):
    return Teacher(scorers, QUERIES, objective, **more).precompute(Phase("teacher"))


def online(scorers, objective, **more):
    return Teacher(scorers, QUERIES, objective, frozen=partial(nullcontext, scorers[0].model), **more)


IN_TURN = np.arange(len(QUERIES)) % 2


def vocab(scorer):
    return targets((scorer,), Objective(support="vocab")).logprobs


@pytest.mark.parametrize("support", SUPPORTS)
def test_several_contexts_teach_the_mean_of_their_distributions(scorers, support):
    objective = Objective(support=support, **SUPPORTS[support])
    found = targets(scorers, objective)
    whole = torch.stack([vocab(scorer) for scorer in scorers])
    if support == "labels":
        expected = mean_logprobs(whole[..., scorers[0].answers.ids].log_softmax(-1))
    else:
        expected = support_targets(mean_logprobs(whole), support, label_ids=scorers[0].answers.ids, topk=objective.topk).logprobs
    torch.testing.assert_close(found.logprobs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logprobs.exp().sum(1), torch.ones(len(QUERIES)))


def test_in_turn_each_query_has_the_answer_of_one_context(scorers):
    found = targets(scorers, Objective(), context_of=IN_TURN).logprobs
    single = [targets((scorer,), Objective()).logprobs for scorer in scorers]
    for i in range(len(QUERIES)):
        torch.testing.assert_close(found[i], single[i % 2][i], atol=1e-5, rtol=0)
    assert not torch.allclose(single[0], single[1], atol=1e-4)


@pytest.mark.parametrize("chunk", [2, 100])
def test_the_largest_of_a_mean_do_not_depend_on_how_many_are_read_at_once(scorers, monkeypatch, chunk):
    expected = targets(scorers, Objective(support="topk", topk=7))
    monkeypatch.setattr(teacher_module, "CHUNK", chunk)
    found = targets(scorers, Objective(support="topk", topk=7))
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("turns", [False, True])
def test_online_answers_are_the_precomputed_ones(scorers, support, contexts, turns):
    objective = Objective(support=support, **SUPPORTS[support])
    more = {"context_of": IN_TURN % contexts if turns else None}
    before = targets(scorers[:contexts], objective, **more)
    teacher = online(scorers[:contexts], objective, **more)
    for batch in ([0, 3, 5], [6], [1, 2, 4]):
        found = teacher.targets(batch)
        torch.testing.assert_close(found.logprobs, before.logprobs[batch], atol=1e-5, rtol=0)
        assert (found.tokens is None) == (support != "topk")
        if support == "topk":
            assert torch.equal(found.tokens, before.tokens[batch])


@pytest.mark.parametrize("support", ["topk", "vocab"])
@pytest.mark.parametrize("context_of", [None, IN_TURN, np.array([1, 0, 0, 1, 1, 1, 0])])
@torch.no_grad()
def test_texts_are_answered_at_each_of_their_tokens(scorers, support, context_of, monkeypatch):
    monkeypatch.setattr(teacher_module, "CHUNK", 5)
    objective, more = Objective(support=support, **SUPPORTS[support]), {"context_of": context_of}
    scorers = tuple(replace(scorer, answers=texts(scorer)) for scorer in scorers)
    expected = []
    for i, (query, answer) in enumerate(zip(QUERIES, ANSWERS, strict=True)):
        behind = []
        for scorer in scorers if context_of is None else [scorers[context_of[i]]]:
            prompt = scorer.prompter.prompts([query]).whole(0)
            logits = scorer.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            behind.append(logits.log_softmax(-1))
        expected.append(support_targets(mean_logprobs(torch.stack(behind)), support, label_ids=(), topk=7))
    found = targets(scorers, objective, **more)
    assert found.query_of.tolist() == [i for i, answer in enumerate(ANSWERS) for _ in answer]
    read_along, batch = online(scorers, objective, **more).targets([4, 0, 3]), [4, 0, 3]
    for rows, whole in ((found.by_query(), expected), (read_along.by_query(), [expected[i] for i in batch])):
        for one, other in zip(rows, whole, strict=True):
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=2e-5, rtol=0)
            assert support == "vocab" or torch.equal(one.tokens, other.tokens)


def test_labels_of_several_tokens_have_no_distribution_beyond_themselves(scorers):
    several = replace(scorers[0], answers=Labels(LabelSequences.create([[17, 4], [8]])))
    with pytest.raises(ValueError, match="support labels_rest is of one position a query"):
        targets([several], Objective(support="labels_rest"))


@pytest.mark.parametrize("support", ["labels", "labels_rest"])
def test_texts_share_no_classes(scorers, support):
    with pytest.raises(ValueError, match=f"support {support} is none of topk, vocab, sampled"):
        Teacher(
            [replace(scorers[0], answers=texts(scorers[0]))],
            QUERIES,
            Objective(support=support),
        )


def test_calibration_is_the_same_online(scorers):
    calibrated = tuple(replace(scorer, answers=replace(scorer.answers, calibrate=True)) for scorer in scorers)
    before = targets(calibrated, Objective()).logprobs
    torch.testing.assert_close(online(calibrated, Objective()).targets([2, 0]).logprobs, before[[2, 0]], atol=1e-5, rtol=0)
    assert not torch.allclose(before, targets(scorers, Objective()).logprobs, atol=1e-3)


def test_a_context_is_encoded_once_online(scorers):
    teacher, lengths = online(scorers, Objective()), []
    embeddings = scorers[0].model.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    for _ in range(3):
        teacher.targets([0, 1])
    handle.remove()
    prompts = [scorer.prompter.prompts(QUERIES) for scorer in scorers]
    assert sum(lengths) == sum(len(one.prefix) + 3 * sum(map(len, one.suffixes[:2])) for one in prompts)


def test_the_mean_of_scores_counts_every_context(scorers):
    teachers, phase = MeanScorer(scorers), Phase("eval")
    found = teachers.score(QUERIES, phase)
    single = [scorer.score(QUERIES, Phase("eval")) for scorer in scorers]
    np.testing.assert_allclose(
        np.exp(found["label_logprobs"]), np.mean([np.exp(s["label_logprobs"]) for s in single], axis=0), atol=1e-9
    )
    assert phase.examples == 2 * len(QUERIES)


@pytest.mark.parametrize("support", SUPPORTS)
def test_kept_answers_are_taken_up_to_the_bit_and_without_a_forward_pass(scorers, tmp_path, support):
    objective, model = Objective(support=support, **SUPPORTS[support]), scorers[0].model
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))

    def cached(texts=scorers):
        cache = AnswerCache.create(ContentCache(tmp_path), model, scorers[0].prompter.tokenizer, BatchSize(3))
        return tuple(replace(scorer, cache=cache) for scorer in texts), cache

    first = targets(cached()[0], objective)
    reads = len(calls)
    assert reads > 0
    again, cache = cached()
    second = targets(again, objective)
    assert len(calls) == reads
    assert torch.equal(first.logprobs, second.logprobs)
    saved = as_record(cache.saved)
    assert saved["answers"] > 0 and saved["tokens"] > 0
    prompter = scorers[0].prompter
    shown = tuple({**row, "text1": row["text1"].replace("mat", "map")} for row in prompter.demonstrations)
    changed = replace(scorers[0], prompter=replace(prompter, demonstrations=shown))
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


@pytest.mark.parametrize("support", ["topk", "vocab", "sampled"])
def test_the_first_tokens_of_answers_can_be_skipped_but_not_their_last(scorers, support):
    asked = [replace(scorer, answers=texts(scorer)) for scorer in scorers]
    objective = Objective(support=support, topk=7) if support == "topk" else Objective(support=support)
    whole, rest = (targets(asked[:1], objective, skip_first=n).by_query() for n in (0, 2))
    read_along = None if support == "sampled" else online(asked[:1], objective, skip_first=2).targets(range(len(QUERIES)))
    for answer, all_of_it, part in zip(ANSWERS, whole, rest, strict=True):
        kept = max(len(answer) - 2, 1)
        assert torch.allclose(part.logprobs, all_of_it.logprobs[-kept:], atol=1e-5)
        assert part.tokens is None or torch.equal(part.tokens, all_of_it.tokens[-kept:])
    if read_along is not None:
        assert torch.allclose(read_along.logprobs, torch.cat([part.logprobs for part in rest]), atol=1e-5)
    examples = [{"input_ids": [1, *answer[:-1]], ASKED: len(answer), "answer": answer} for answer in ANSWERS]
    assert [example["answer"] for example in skipping(examples, 2)] == [answer[-max(len(answer) - 2, 1) :] for answer in ANSWERS]
