"""The world: what documents and questions promise, checked on their texts."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.worlds.notes import grammar
from llmft.worlds.notes.grammar import ATTRIBUTES, NOT_STATED
from llmft.worlds.notes.tokenizer import split_words
from llmft.worlds.notes.world import draw_document, notes_documents, notes_splits

SETS = ["train", "validation", "reverse", "unanswerable"]
seeds = st.integers(0, 10_000)


def place(question: str) -> str:
    """The place that a question is about: a name and the word behind it."""
    words = split_words(question)
    at = next(i for i, word in enumerate(words) if word in grammar.NAMES)
    return " ".join(words[at : at + 2])


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_every_fact_is_in_the_document_and_asked_for_in_five_wordings(seed):
    ((name, text),) = notes_documents(None, seed).items()
    splits = notes_splits(None, seed)
    assert list(splits) == SETS
    for rows in splits.values():
        assert [row["idx"] for row in rows] == list(range(len(rows)))
        assert {row["document"] for row in rows} == {name}
        assert len({row["text1"] for row in rows}) == len(rows)
    facts = {(place(row["text1"]), row["kind"], row["answer"]) for row in splits["validation"]}
    assert 16 <= len(facts) <= 32 and len(splits["validation"]) == 2 * len(facts)
    stated = [row for row in splits["train"] if row["answer"] != NOT_STATED]
    assert Counter((place(row["text1"]), row["kind"], row["answer"]) for row in stated) == dict.fromkeys(facts, 3)
    for where, kind, value in facts:
        (attribute,) = (one for one in ATTRIBUTES if one.name == kind)
        assert 1 <= len(value.split()) <= 4
        statements = [re.escape(one).replace(r"\{value\}", value) for one in attribute.statements]
        assert re.search(rf"he {where} ([^.]* and )?({'|'.join(statements)})", text)
        assert len(re.findall(rf"\b{value}\b", text)) == 1


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_training_and_evaluation_share_no_question(seed):
    splits = notes_splits(None, seed)
    text = next(iter(notes_documents(None, seed).values()))
    questions = [row["text1"] for rows in splits.values() for row in rows]
    assert len(set(questions)) == len(questions)
    pairs = {
        name: {(place(row["text1"]), row["kind"]) for row in splits[name]} for name in ("train", "validation", "unanswerable")
    }
    assert pairs["validation"] < pairs["train"] and not pairs["unanswerable"] & pairs["train"]
    assert {row["answer"] for row in splits["unanswerable"]} == {NOT_STATED}
    assert len(splits["unanswerable"]) >= 2 * 8
    named = [where in text for where, _ in pairs["unanswerable"]]
    assert any(named) and not all(named)  # attributes that a place's sentences leave out, and places without any
    answers = {(row["kind"], row["answer"]): place(row["text1"]) for row in splits["validation"]}
    for row in splits["reverse"]:
        (value,) = (value for kind, value in answers if kind == row["kind"] and f" {value}" in row["text1"])
        assert answers[row["kind"], value].split()[0] == row["answer"]


def test_held_out_wordings_differ_from_those_of_training():
    for attribute in ATTRIBUTES:
        assert len(set(attribute.questions)) == len(grammar.WORDINGS) == 5
    assert not set(grammar.TRAIN_WORDINGS) & set(grammar.HELD_OUT_WORDINGS)


def test_the_same_seed_gives_the_same_rows_and_others_give_others():
    assert notes_splits(None, 5) == notes_splits(None, 5) and notes_documents("", 5) == notes_documents(None, 5)
    assert notes_documents(None, 5).values() != notes_documents(None, 6).values()
    five, six = ({(row["text1"], row["answer"]) for row in notes_splits(None, seed)["validation"]} for seed in (5, 6))
    assert not five & six


def test_no_answer_is_often_right():
    """Whoever knows the attribute asked for, but not the document, is right at most once in twenty."""
    values: dict[str, Counter] = {attribute.name: Counter() for attribute in ATTRIBUTES}
    for seed in range(150):
        for row in notes_splits(None, seed)["validation"][::2]:
            values[row["kind"]][row["answer"]] += 1
    for attribute in ATTRIBUTES:
        count = values[attribute.name]
        expected = 1
        for pool in attribute.slots:
            expected *= len(pool)
        assert expected >= 20 and count.most_common(1)[0][1] <= 0.08 * count.total()


@pytest.mark.parametrize("facts", [16, 32])
def test_documents_of_any_size(facts):
    document = draw_document(random.Random(0), facts, 4)
    assert len(document.facts) == facts and len(document.unstated()) == 40 - facts
    assert len(split_words(document.text)) <= 12 * facts + 20
    assert all(re.fullmatch(r"[A-Z][^.]*\.", sentence) for sentence in re.findall(r"[^.]+\.", document.text.replace(". ", ".")))


@pytest.mark.parametrize("ask", [notes_splits, notes_documents])
def test_there_are_no_variants(ask):
    with pytest.raises(InputError, match=r"--task_variant 'long': the notes world has no variants; drop this flag"):
        ask("long", 0)
