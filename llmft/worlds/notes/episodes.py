"""Pretraining text: documents, each followed by many questions, and everything that the losses need."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from llmft.worlds.notes.grammar import ATTRIBUTES, NOT_STATED, REVERSE_FRAMES, WORDINGS, Attribute
from llmft.worlds.notes.tokenizer import BOS, EOS, ID, PAD, split_words
from llmft.worlds.notes.world import (
    PATTERN,
    SEPARATOR,
    Decks,
    Fact,
    NotesDocument,
    draw_document,
    draw_places,
    question_text,
    reverse_text,
    sentence_text,
)

KIND = {attribute.name: i for i, attribute in enumerate(ATTRIBUTES)}
LONGEST_VALUE = max(len(attribute.slots) for attribute in ATTRIBUTES)
P_REVERSE, P_UNSTATED = 0.2, 0.18
P_STRANGER = 0.3  # of the questions without an answer ask for a place that the document does not name
P_REVERSE_UNSTATED = 0.2  # and this share for the place of a value that it does not state
P_ALONE = 0.1  # of the questions that stand by themselves cannot see the document either
P_SEQUENCE = 0.25  # of the episodes have their questions in sequence, so that later ones see earlier ones
IGNORED = -100
GROUPS = ("forward", "reverse", "unstated", "alone")


@dataclass(frozen=True)
class NotesQuestion:
    """A question with its answer, and the keys of its fact: an attribute, and the place or a word of the value."""

    text: str
    answer: tuple[str, ...]
    group: str
    attribute: Attribute
    place: str | None = None
    word: str | None = None


@dataclass(frozen=True)
class NotesBatch:
    """B episodes of at most T tokens; arrays are (B, T), and IGNORED where there is nothing.

    "Marked" are the words of values in the document and the tokens of questions after which one of the answer is due.
    """

    sequence: np.ndarray  # (B,) bool: whether questions see those before them
    ids: np.ndarray
    positions: np.ndarray
    segment: np.ndarray  # 0 the document, 1 and more the questions, -1 padding
    alone: np.ndarray  # bool: sees neither document nor other questions
    stated: np.ndarray  # the next token inside the document
    answer: np.ndarray  # where one of an answer is due, its end included: that token
    group: np.ndarray  # there: index into GROUPS
    attribute: np.ndarray  # at marked tokens: index into ATTRIBUTES
    index: np.ndarray  # at marked tokens: which word of the value this is, or which one is due
    place: np.ndarray  # at marked tokens except those of reverse questions: the id of the place's name
    word: np.ndarray  # in the document: the id of the value's word itself; at reverse questions: that of the one asked by
    gather: np.ndarray  # at marked tokens: where in the row that name or word is, in the same sentence or question
    source: np.ndarray  # where a word of an answer is due: where in the row it can be found; 0, the beginning, if nowhere

    def visible(self) -> np.ndarray:
        """(B, T, T) whether a token (rows) sees another (columns)."""
        length = self.ids.shape[1]
        same = self.segment[:, :, None] == self.segment[:, None, :]
        earlier = (self.segment[:, None, :] == 0) | self.sequence[:, None, None]
        begin = np.arange(length) == 0
        return (same | (earlier & ~self.alone[:, :, None]) | begin) & np.tri(length, dtype=bool)


class Episode:
    """One row of a batch while it is being written, column by column."""

    FILL: ClassVar = {"ids": PAD, "positions": 0, "segment": -1, "alone": True} | dict.fromkeys(
        ("stated", "answer", "group", "attribute", "index", "place", "word", "gather", "source"), IGNORED
    )
    """Columns of NotesBatch, and their values where nothing is written."""

    def __init__(self, document: NotesDocument, questions: Sequence[NotesQuestion], sequence: bool, rng: random.Random):
        self.columns: dict[str, list[int]] = {name: [] for name in self.FILL}
        self._where: dict[tuple, int] = {}  # of a value by attribute, place, index; of a key word by attribute, word
        self._add(BOS, 0, 0)
        self._write_document(document)
        self._document_end = len(self)
        for segment, question in enumerate(questions, 1):
            self._write_question(question, segment, sequence, alone=not sequence and rng.random() < P_ALONE)

    def __len__(self) -> int:
        return len(self.columns["ids"])

    def _add(self, token: int, position: int, segment: int, alone: bool = False) -> None:
        for name, fill in self.FILL.items():
            self.columns[name].append(fill)
        self._mark(-1, ids=token, positions=position, segment=segment, alone=alone)

    def _mark(self, at: int, **values: int) -> None:
        for name, value in values.items():
            self.columns[name][at] = value

    def _write_document(self, document: NotesDocument) -> None:
        for facts, wording in zip(document.sentences, document.wordings, strict=True):
            first, words = len(self), split_words(sentence_text(facts, wording))
            for word in words:
                self._add(ID[word], len(self), 0)
            behind = 0
            for fact in facts:
                start = find_words(words, fact.value, behind)
                behind = start + len(fact.value)
                self._mark_value(fact, first + start, gather=first + words.index(fact.place.name))
        self._add(ID[SEPARATOR], len(self), 0)
        self.columns["stated"][:-1] = self.columns["ids"][1:]

    def _mark_value(self, fact: Fact, start: int, gather: int) -> None:
        attribute, place = KIND[fact.attribute.name], fact.place.name
        self._where[attribute, fact.value[fact.attribute.key_slot]] = start + fact.attribute.key_slot
        for index, word in enumerate(fact.value):
            at = self._where[attribute, place, index] = start + index
            self._mark(at, attribute=attribute, index=index, place=ID[place], word=ID[word], gather=gather)

    def _write_question(self, question: NotesQuestion, segment: int, sequence: bool, alone: bool) -> None:
        group, answer = ("alone", tuple(NOT_STATED.split())) if alone else (question.group, question.answer)
        words = split_words(PATTERN.format(text1=question.text))
        first = len(self)
        position = first if sequence else 1 if alone else self._document_end
        for offset, word in enumerate((*words, *answer, *([SEPARATOR] if sequence else []))):
            self._add(ID[word], position + offset, segment, alone)
        attribute = KIND[question.attribute.name]
        asked = "word" if question.place is None else "place"
        subject = question.word if question.place is None else question.place
        gather = first + len(words) - 1 - words[::-1].index(subject)
        for index, token in enumerate((*map(ID.get, answer), EOS)):
            at = first + len(words) - 1 + index
            self._mark(at, answer=token, group=GROUPS.index(group), attribute=attribute, index=index, gather=gather)
            self.columns[asked][at] = ID[subject]
            if group == "forward" and token != EOS:
                self.columns["source"][at] = self._where[attribute, subject, index]
            elif index == 0:
                self.columns["source"][at] = self._where[attribute, subject] if group == "reverse" else 0


def find_words(words: Sequence[str], wanted: Sequence[str], start: int) -> int:
    """Where a sequence of words begins within others, from `start` on."""
    return next(at for at in range(start, len(words)) if tuple(words[at : at + len(wanted)]) == tuple(wanted))


def draw_questions(rng: random.Random, document: NotesDocument, n: int) -> list[NotesQuestion]:
    """N questions; those with an answer cycle through the facts."""
    facts = rng.sample(document.facts, len(document.facts))
    questions = []
    for i in range(n):
        fact, draw = facts[i % len(facts)], rng.random()
        if draw < P_UNSTATED:
            questions.append(draw_unstated(rng, document))
        elif draw < P_UNSTATED + P_REVERSE:
            text = reverse_text(fact.attribute, fact.value, rng.randrange(len(REVERSE_FRAMES)))
            word = fact.value[fact.attribute.key_slot]
            questions.append(NotesQuestion(text, (fact.place.name,), "reverse", fact.attribute, word=word))
        else:
            text = question_text(fact.place, fact.attribute, rng.choice(WORDINGS))
            questions.append(NotesQuestion(text, fact.value, "forward", fact.attribute, place=fact.place.name))
    return questions


def draw_unstated(rng: random.Random, document: NotesDocument) -> NotesQuestion:
    """A question that the document does not answer."""
    answer, draw = tuple(NOT_STATED.split()), rng.random()
    if draw < P_REVERSE_UNSTATED:
        attribute = rng.choice(ATTRIBUTES)
        stated = {fact.value[attribute.key_slot] for fact in document.facts if fact.attribute == attribute}
        value = next(value for value in iter(lambda: Decks(rng).draw(attribute), None) if value[attribute.key_slot] not in stated)
        text = reverse_text(attribute, value, rng.randrange(len(REVERSE_FRAMES)))
        return NotesQuestion(text, answer, "unstated", attribute, word=value[attribute.key_slot])
    place, attribute = rng.choice(document.unstated())
    if draw < P_REVERSE_UNSTATED + P_STRANGER:
        named = {one.name for one in document.places}
        place = next(one for one in draw_places(rng, len(named) + 1) if one.name not in named)
    text = question_text(place, attribute, rng.choice(WORDINGS))
    return NotesQuestion(text, answer, "unstated", attribute, place=place.name)


def draw_episodes(
    rng: random.Random, size: int, facts: tuple[int, int], places: tuple[int, int], num_questions: int
) -> NotesBatch:
    """`size` episodes with numbers of facts and places in these ranges."""
    episodes, sequence = [], []
    for _ in range(size):
        num_places = rng.randint(*places)
        num_facts = min(rng.randint(*facts), num_places * len(ATTRIBUTES) - 2)
        document = draw_document(rng, num_facts, num_places)
        sequence.append(rng.random() < P_SEQUENCE)
        episodes.append(Episode(document, draw_questions(rng, document, num_questions), sequence[-1], rng))
    length = max(map(len, episodes))
    columns = {name: np.full((size, length), fill) for name, fill in Episode.FILL.items()}
    for row, episode in enumerate(episodes):
        for name, column in columns.items():
            column[row, : len(episode)] = episode.columns[name]
    return NotesBatch(np.array(sequence), **columns)
