"""Answers of a student while it trains, and a teacher's targets along them, on tiny models."""

import copy
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from llmft.arguments.objective import Objective
from llmft.cost.meter import Meter
from llmft.cost.phases import Phase
from llmft.distillation import teacher as teacher_module
from llmft.distillation.rollouts import Rollout, Rollouts, Tally, TeacherTakesOver
from llmft.distillation.targets import Targets
from llmft.distillation.teacher import Teacher
from llmft.evaluation.scorer import Scorer
from llmft.evaluation.texts import Texts
from llmft.models.reading.batches import BatchSize
from llmft.models.reading.following import Follower
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat
from tests.conftest import byte_level_bpe, tiny_model

QUERIES = [{"text1": f"the cat sat on {word} .", "text2": None, "answer": (), "idx": i} for i, word in enumerate("abcdef")]
CONTEXTS = ("a mat ! the cat ?", "x Yes x No\n")
OF = np.arange(len(QUERIES)) % 2
K, LONGEST = 5, 6


def scorers(family):
    """A student and its teacher with two documents: the same model."""
    model, tokenizer = tiny_model(family), byte_level_bpe("</s>")
    formats = [
        PromptFormat("{text1} ?", "", r"\n", ()),
        *(PromptFormat("{text1} ?", "", r"\n", (), document=d) for d in CONTEXTS),
    ]
    made = [Scorer.create(model, Prompter(tokenizer, one), Texts, QUERIES[0], BatchSize(3)) for one in formats]
    generation = replace(made[0].answers.generation, max_new_tokens=LONGEST)
    return [replace(one, answers=replace(one.answers, generation=generation)) for one in made]


def rollouts(family="opt", threshold=None, temperature=0.0, skip_first=0, *, apart=False):
    """`apart`: whether the teacher is another model with the same weights."""
    student, *taught = scorers(family)
    model = copy.deepcopy(student.model) if apart else student.model
    taught = [one.with_model(model) for one in taught]
    objective, frozen = Objective(support="topk", topk=K), partial(nullcontext, model)
    teacher = Teacher(taught, QUERIES, objective, context_of=OF, frozen=frozen, skip_first=skip_first)
    generation = replace(student.answers.generation, temperature=temperature)
    return Rollouts(student, teacher, generation, topk=K, threshold=threshold, meter=Meter(from_start=False))


PLACES = [4, 1, 3, 0]


@pytest.mark.parametrize("family", ["opt", "llama", "gptj"])
def test_the_teacher_writes_all_or_nothing_at_the_ends_of_the_threshold(family):
    student, *taught = scorers(family)
    by_student = [row["answer_ids"] for row in student.answered([QUERIES[place] for place in PLACES], Phase("evaluate"))]
    by_teacher = [taught[OF[place]].answered([QUERIES[place]], Phase("evaluate"))[0]["answer_ids"] for place in PLACES]
    assert by_student != by_teacher or family == "gptj"  # which repeats one token forever, and shares no keys
    for threshold, answers, share in ((None, by_student, 0), (0.7, by_student, 0), (0.0, by_teacher, 1)):
        one = rollouts(family, threshold)
        assert [rollout.tokens for rollout in one.renew(PLACES, 0)] == answers
        assert one.tally.as_dict()["written_by_teacher"] == share
        assert one.tally.tokens == sum(map(len, answers)) == one.tally.learnt
        one.renew(PLACES, 0, counted=[True, False, False, True])
        assert one.tally.answers == len(PLACES) + 2


def whole_logprobs(scorer, place, answer):
    """Log-probabilities (P, V) along an answer, from the whole prompt at once."""
    prompt = scorer.prompter.prompts([QUERIES[place]]).whole(0)
    with torch.no_grad():
        logits = scorer.model(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1 :]
    return logits.log_softmax(-1)


@pytest.mark.parametrize(("threshold", "skip_first"), [(None, 0), (0.001, 2)])
def test_targets_are_the_teachers_probabilities_of_the_students_likeliest_tokens(threshold, skip_first):
    student, *taught = scorers("opt")
    for place, (answer, targets) in zip(
        PLACES,
        ((one.tokens, one.targets) for one in rollouts("opt", threshold, 1.0, skip_first).renew(PLACES, 3)),
        strict=True,
    ):
        first = min(skip_first, len(answer) - 1)
        teacher, own = (whole_logprobs(scorer, place, answer)[first:] for scorer in (taught[OF[place]], student))
        tokens, probabilities = targets.tokens, targets.logprobs.exp()
        assert tokens.shape == (len(answer) - first, K if threshold is None else 2 * K)
        assert torch.equal(tokens[:, :K].sort().values, own.topk(K).indices.sort().values)
        if threshold is not None:
            both = [set(row.tolist()) for row in tokens]
            assert all(len(row) == 2 * K for row in both)
            assert all(set(row.tolist()) <= seen for row, seen in zip(teacher.topk(K).indices, both, strict=True))
        assert torch.allclose(probabilities[:, :-1], teacher.exp().gather(1, tokens), atol=1e-5)
        assert torch.allclose(probabilities.sum(1), torch.ones(len(tokens)), atol=1e-5)


def test_what_fills_up_an_answer_that_has_ended_is_padding():
    one, places = rollouts(), [0, 2]
    behind = partial(one.teacher.behind, 0)
    with behind() as (reader, prompts):
        taker = TeacherTakesOver(Follower(reader, prompts, one.teacher.row_of(0, places)), behind, 0.0)
    ids, scores = torch.ones(2, 5, dtype=int), torch.zeros(2, one.student.model.config.vocab_size)
    taker(ids, scores)
    tokens, padding = reader.tokens, reader.padding_tokens
    for _ in range(3):
        taker(ids, scores)
    taker.count([4, 2])
    assert (reader.tokens - tokens, reader.padding_tokens - padding) == (3 + 1, 2)


def test_what_the_teacher_reads_is_counted_once_although_it_is_the_students_model():
    counted = []
    for apart in (False, True):
        one = rollouts(threshold=0.05, apart=apart)
        one.renew(PLACES, 0)
        (phase,) = one.meter.phases
        counted.append((phase.tokens, phase.padding_tokens, phase.flops))
    assert counted[0] == counted[1]


def test_answers_are_drawn_by_step_and_query_and_a_state_keeps_their_bits():
    one, other = rollouts(temperature=1.0), rollouts(temperature=1.0)
    first = [rollout.state() for rollout in one.renew(PLACES, 7)]
    assert [rollout.state()["answer"] for rollout in other.renew(PLACES[::-1], 7)][::-1] == [state["answer"] for state in first]
    assert [rollout.state()["answer"] for rollout in one.renew(PLACES, 8)] != [state["answer"] for state in first]
    assert [Rollout.from_state(state).state() for state in first] == first
    assert Rollout.from_state(first[0]).targets.logprobs.dtype == torch.float32


def test_contexts_beyond_the_memory_for_them_are_encoded_again(monkeypatch):
    kept, again = rollouts(threshold=0.01), rollouts(threshold=0.01)
    expected = [[rollout.state() for rollout in kept.renew(PLACES, step)] for step in range(2)]
    monkeypatch.setattr(teacher_module, "HELD", 1)
    assert [[rollout.state() for rollout in again.renew(PLACES, step)] for step in range(2)] == expected
    assert sum(one.reader is not None for one in kept.teacher.online) == 2
    assert sum(one.reader is not None for one in again.teacher.online) == 1
    tokens = [one.meter.phases[0].tokens for one in (kept, again)]
    assert tokens[1] > tokens[0] > 0


def test_divergences_are_counted_by_their_place_in_the_answer():
    """Pitfall of on-policy learning: its signal fades along an answer that has drifted from the context."""
    tally, place = Tally(), np.arange(1, 20, dtype=float)
    targets = Targets(torch.zeros(19, 2), torch.zeros(19, 1, dtype=int))
    tally.add(Rollout([7] * 19, targets), place, by_teacher=3)
    tally.add(Rollout([7] * 3, targets), np.array([5.0]), by_teacher=1)  # its first two tokens are not learnt
    counted = (tally + Tally()).as_dict()
    assert counted["jsd_by_place"] == {"1": 1.0, "2-3": 10 / 3, "4-7": 5.5, "8-15": 11.5, "16-": 17.5}
    assert (counted["answers"], counted["tokens"], counted["learnt_tokens"]) == (2, 22, 20)
    assert counted["written_by_teacher"] == 4 / 22
