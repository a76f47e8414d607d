"""Pretraining: what episodes contain and who sees what, and a smoke run that repeats bit by bit."""

import random

import numpy as np
import pytest
import torch

from llmft.worlds.notes.episodes import GROUPS, IGNORED, draw_episodes
from llmft.worlds.notes.grammar import ATTRIBUTES, NOT_STATED
from llmft.worlds.notes.model import build_notes_model
from llmft.worlds.notes.pretrain import NotesLesson, NotesRecipe, pretrain_notes
from llmft.worlds.notes.tokenizer import BOS, EOS, ID, VOCABULARY
from llmft.worlds.notes.world import SEPARATOR
from llmft.worlds.pretraining import Size

TINY = NotesRecipe(
    size=Size(4, 32, 32, 2),
    phases=(NotesLesson(2, 3, (2, 6), (1, 3), 4), NotesLesson(2, 1, (16, 32), (4, 6), 8, scaffold=0.3)),
)


@pytest.fixture(scope="module")
def batch():
    return draw_episodes(random.Random(0), 24, (6, 16), (2, 5), 10)


def words(ids) -> list[str]:
    return [VOCABULARY[i] for i in ids]


def test_answers_follow_their_questions(batch):
    counts = dict.fromkeys(GROUPS, 0)
    for row in range(24):
        ids, segment = batch.ids[row], batch.segment[row]
        document = words(ids[segment == 0])
        assert document[0] == VOCABULARY[BOS] and document[-1] == SEPARATOR
        for number in range(1, segment.max() + 1):
            (where,) = np.nonzero(segment == number)
            due = where[batch.answer[row, where] != IGNORED]
            answer, group = batch.answer[row, due], GROUPS[batch.group[row, due[0]]]
            counts[group] += 1
            assert VOCABULARY[ids[due[0]]] == "Answer:" and answer[-1] == EOS
            assert list(answer[:-1]) == list(ids[due[0] + 1 : due[0] + len(due)])  # the answer itself is there to be read
            if group in ("unstated", "alone"):
                assert " ".join(words(answer[:-1])) == NOT_STATED
            if group == "forward":
                source = batch.source[row, due[:-1]]
                assert list(ids[source]) == list(answer[:-1]) and (segment[source] == 0).all()
                assert (batch.place[row, source] == batch.place[row, due[:-1]]).all()
                assert (batch.attribute[row, source] == batch.attribute[row, due[:-1]]).all()
                assert list(batch.index[row, source]) == list(range(len(source)))
            if group == "reverse":
                source = batch.source[row, due[0]]
                assert ids[source] == batch.word[row, due[0]] and batch.place[row, source] == answer[0]
    assert all(counts.values())


def test_what_is_gathered_stands_in_the_same_sentence_or_question(batch):
    for row in range(24):
        for at in np.flatnonzero(batch.gather[row] != IGNORED):
            gather = batch.gather[row, at]
            assert batch.ids[row, gather] in (batch.place[row, at], batch.word[row, at])
            assert batch.segment[row, gather] == batch.segment[row, at]
            assert ID["."] not in batch.ids[row, gather : at if batch.segment[row, at] == 0 else gather]


def test_who_sees_what(batch):
    visible = batch.visible()
    assert {True, False} == {*batch.sequence.tolist()} and batch.alone[batch.segment > 0].any()
    for row in range(24):
        segment = batch.segment[row]
        for at in np.flatnonzero(segment >= 0):
            seen, same = visible[row, at], np.flatnonzero(segment == segment[at])
            assert seen[0] and seen[same[same <= at]].all() and not seen[at + 1 :].any()
            others = set(segment[seen]) - {segment[at]}
            if segment[at] == 0:
                assert not others
            elif batch.sequence[row]:
                assert others == set(range(segment[at])) and batch.positions[row, at] == at
            elif batch.alone[row, at]:
                assert others == {0} and seen[segment == 0].sum() == 1 and batch.positions[row, same[0]] == 1
            else:
                assert others == {0} and seen[segment == 0].all()
                assert batch.positions[row, same[0]] == (segment == 0).sum()


def test_pretraining_runs_and_repeats_to_the_bit():
    seen = []
    first, second = (pretrain_notes(TINY, 3, lambda *report: seen.append(report)) for _ in range(2))
    assert [step for step, _ in seen] == [1, 2, 3, 4] * 2 and seen[:4] == seen[4:]
    assert all(np.isfinite(list(means.values())).all() for _, means in seen)
    start, other = build_notes_model(TINY.size, 3).state_dict(), second.state_dict()
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, other[name])
    assert not torch.equal(first.model.layers[0].mlp.up_proj.weight, start["model.layers.0.mlp.up_proj.weight"])


def test_every_attribute_is_asked_for(batch):
    assert {*batch.attribute[batch.attribute != IGNORED]} == set(range(len(ATTRIBUTES)))
