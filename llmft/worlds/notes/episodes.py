"""Pretraining text: documents, each with many questions behind it, and all that the losses ask of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmft.worlds.notes.grammar import ATTRIBUTES, NOT_STATED, REVERSE_FRAMES, Attribute
from llmft.worlds.notes.tokenizer import BOS, EOS, ID, PAD, split_words
from llmft.worlds.notes.world import (
    PATTERN,
    SEPARATOR,
    Decks,
    Document,
    Fact,
    Place,
    draw_document,
    draw_places,
    question_text,
    reverse_text,
    sentence_text,
)

KIND = {attribute.name: i for i, attribute in enumerate(ATTRIBUTES)}
NUM_KINDS = 2 * len(ATTRIBUTES)
"""A question asks for one of the attributes or, counted behind them, for a place by one."""
LONGEST_VALUE = max(len(attribute.slots) for attribute in ATTRIBUTES)
P_REVERSE, P_UNSTATED = 0.2, 0.12
P_WITHOUT_DOCUMENT = 0.1  # of the questions that stand alone cannot see the document
P_SEQUENCE = 0.25  # of the episodes have their questions one after the other, so that later ones see the earlier
IGNORED = -100


@dataclass(frozen=True)
class Question:
    """A question with its answer, and what it is about: `subject` is the word by which the fact is looked up."""

    text: str
    answer: tuple[str, ...]
    subject: str
    kind: int


@dataclass
class Batch:
    """B episodes of at most T tokens; arrays are (B, T), and IGNORED where there is nothing."""

    ids: np.ndarray
    positions: np.ndarray
    answer: np.ndarray  # the next token where one of an answer is due, its end included
    stated: np.ndarray  # the next token inside the document
    segment: np.ndarray  # 0 the document, 1 and more the questions, -1 padding
    alone: np.ndarray  # bool: sees neither document nor other questions
    sequence: np.ndarray  # (B,) bool: whether questions see those before them
    subject: np.ndarray  # at a value in the document and in an answer: the id of the place's name, or of the word asked by
    kind: np.ndarray
    index: np.ndarray  # which word of the value this is; at a question, which one is due
    group: np.ndarray  # at an answer's tokens: 0 forward, 1 reverse, 2 unstated, 3 without a document

    def visible(self) -> np.ndarray:
        """(B, 1, T, T) whether a token (rows) sees another (columns)."""
        length = self.ids.shape[1]
        same = self.segment[:, :, None] == self.segment[:, None, :]
        document = (self.segment[:, None, :] == 0) & ~self.alone[:, :, None]
        begin = np.arange(length)[None, None, :] == 0
        sees = same | document | begin | (self.sequence[:, None, None] & ~self.alone[:, :, None])
        return (sees & np.tri(length, dtype=bool))[:, None]


@dataclass
class _Episode:
    """The columns of one row, as lists."""

    ids: list[int]
    positions: list[int]
    answer: list[int]
    stated: list[int]
    segment: list[int]
    alone: list[bool]
    subject: list[int]
    kind: list[int]
    index: list[int]
    group: list[int]

    @classmethod
    def begin(cls) -> "_Episode":
        none = [IGNORED]
        return cls([BOS], [0], [*none], [*none], [0], [False], [*none], [*none], [*none], [*none])

    def add(self, word: str, position: int, segment: int, alone: bool = False) -> None:
        self.ids.append(ID[word])
        self.positions.append(position)
        self.segment.append(segment)
        self.alone.append(alone)
        for column in (self.answer, self.stated, self.subject, self.kind, self.index, self.group):
            column.append(IGNORED)

    def mark(self, at: int, subject: str, kind: int, index: int) -> None:
        self.subject[at], self.kind[at], self.index[at] = ID[subject], kind, index


def forward_question(fact: Fact, wording: int) -> Question:
    """A question that a document with this fact answers."""
    return Question(question_text(fact.place, fact.attribute, wording), fact.value, fact.place.name, KIND[fact.attribute.name])


def unstated_question(place: Place, attribute: Attribute, wording: int) -> Question:
    """One that a document does not answer."""
    return Question(question_text(place, attribute, wording), tuple(NOT_STATED.split()), place.name, KIND[attribute.name])


def reverse_question(attribute: Attribute, value: tuple[str, ...], answer: tuple[str, ...], frame: int) -> Question:
    """One for the place with a value."""
    kind = len(ATTRIBUTES) + KIND[attribute.name]
    return Question(reverse_text(attribute, value, frame), answer, value[attribute.key_slot], kind)


def draw_questions(rng: random.Random, document: Document, n: int) -> list[tuple[Question, int]]:
    """n different questions with their group, unanswerable and reverse ones among them."""
    facts, unstated = document.facts, document.unstated()
    rng.shuffle(facts)
    drawn = []
    for i in range(n):
        wording, frame, draw = rng.randrange(5), rng.randrange(len(REVERSE_FRAMES)), rng.random()
        if draw < P_UNSTATED:
            if rng.random() < 0.2:
                attribute = rng.choice(ATTRIBUTES)
                value = Decks(rng).draw(attribute)
                if any(value == fact.value for fact in document.facts):
                    continue
                drawn.append((reverse_question(attribute, value, tuple(NOT_STATED.split()), frame), 2))
                continue
            place, attribute = rng.choice(unstated)
            if rng.random() < 0.3:
                place = draw_places(rng, 1)[0]
                if place.name in [one.name for one in document.places]:
                    continue
            drawn.append((unstated_question(place, attribute, wording), 2))
        else:
            fact = facts[i % len(facts)]
            if draw < P_UNSTATED + P_REVERSE:
                answer = (fact.place.name, fact.place.type)
                drawn.append((reverse_question(fact.attribute, fact.value, answer, frame), 1))
            else:
                drawn.append((forward_question(fact, wording), 0))
    return drawn


def write_document(episode: _Episode, document: Document) -> None:
    """Puts the document and the separator behind the first token."""
    for facts, wording in zip(document.sentences, document.wordings, strict=True):
        words = split_words(sentence_text(facts, wording))
        first = len(episode.ids)
        for word in words:
            episode.add(word, len(episode.ids), 0)
        at = first
        for fact in facts:
            n = len(fact.value)
            start = words.index(fact.value[0], at - first)
            while tuple(words[start : start + n]) != fact.value:
                start = words.index(fact.value[0], start + 1)
            for index in range(n):
                episode.mark(first + start + index, fact.place.name, KIND[fact.attribute.name], index)
            at = first + start + n
    episode.add(SEPARATOR, len(episode.ids), 0)
    for at in range(len(episode.ids) - 1):
        episode.stated[at] = episode.ids[at + 1]


def write_questions(rng: random.Random, episode: _Episode, questions: Sequence[tuple[Question, int]], sequence: bool) -> None:
    """Puts the questions behind the document, each with its answer."""
    start = len(episode.ids)
    for segment, (question, group) in enumerate(questions, 1):
        alone = rng.random() < P_WITHOUT_DOCUMENT and not sequence
        answer = question.answer
        if alone:
            answer, group = tuple(NOT_STATED.split()), 3
        words = split_words(PATTERN.format(text1=question.text))
        position = len(episode.ids) if sequence else 1 if alone else start
        for word in (*words, *answer, *([SEPARATOR] if sequence else [])):
            episode.add(word, position, segment, alone)
            position += 1
        first = len(episode.ids) - len(answer) - 1 - sequence
        for index, word in enumerate((*answer, None)):
            episode.answer[first + index] = EOS if word is None else ID[word]
            episode.group[first + index] = group
            episode.mark(first + index, question.subject, question.kind, index)


def draw_batch(rng: random.Random, size: int, facts: tuple[int, int], places: tuple[int, int], num_questions: int) -> Batch:
    """`size` episodes with numbers of facts and places in these ranges."""
    episodes, sequences = [], []
    for _ in range(size):
        num_places = rng.randint(*places)
        num_facts = min(rng.randint(*facts), num_places * len(ATTRIBUTES) - 2)
        document = draw_document(rng, num_facts, num_places)
        episode = _Episode.begin()
        write_document(episode, document)
        sequences.append(rng.random() < P_SEQUENCE)
        write_questions(rng, episode, draw_questions(rng, document, num_questions), sequences[-1])
        episodes.append(episode)
    length = max(len(episode.ids) for episode in episodes)

    def column(name: str, fill: int, dtype: type = np.int64) -> np.ndarray:
        array = np.full((size, length), fill, dtype)
        for row, episode in zip(array, episodes, strict=True):
            row[: len(episode.ids)] = getattr(episode, name)
        return array

    return Batch(
        ids=column("ids", PAD),
        positions=column("positions", 0),
        segment=column("segment", -1),
        alone=column("alone", True, bool),
        sequence=np.array(sequences),
        **{name: column(name, IGNORED) for name in ("answer", "stated", "subject", "kind", "index", "group")},
    )
