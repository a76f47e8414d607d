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
LONGEST_VALUE = max(len(attribute.slots) for attribute in ATTRIBUTES)
P_REVERSE, P_UNSTATED = 0.2, 0.12
P_WITHOUT_DOCUMENT = 0.1  # of the questions that stand alone cannot see the document
P_SEQUENCE = 0.25  # of the episodes have their questions one after the other, so that later ones see the earlier
IGNORED = -100


@dataclass(frozen=True)
class Question:
    """A question with its answer, the attribute it is about, and by what the fact is looked up: its place, or a word of its value."""

    text: str
    answer: tuple[str, ...]
    kind: int
    place: str | None = None
    word: str | None = None


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
    place: np.ndarray  # at a value in the document, and where one of a forward question is due: the id of the place's name
    word: np.ndarray  # at a value in the document: its own id; where one of a reverse question is due: that of its key word
    kind: np.ndarray  # at both: the attribute
    index: np.ndarray  # which word of the value this is; at a question, which one is due
    source: np.ndarray  # where one of an answer is due: where in the row it is to be found, 0 (the beginning) for nowhere
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
    place: list[int]
    word: list[int]
    kind: list[int]
    index: list[int]
    source: list[int]
    group: list[int]

    @classmethod
    def begin(cls) -> "_Episode":
        none = [IGNORED]
        return cls([BOS], [0], [*none], [*none], [0], [False], [*none], [*none], [*none], [*none], [*none], [*none])

    def add(self, word: str, position: int, segment: int, alone: bool = False) -> None:
        self.ids.append(ID[word])
        self.positions.append(position)
        self.segment.append(segment)
        self.alone.append(alone)
        for column in (self.answer, self.stated, self.place, self.word, self.kind, self.index, self.source, self.group):
            column.append(IGNORED)

    def mark(self, at: int, kind: int, index: int, place: str | None = None, word: str | None = None) -> None:
        self.kind[at], self.index[at] = kind, index
        self.place[at] = IGNORED if place is None else ID[place]
        self.word[at] = IGNORED if word is None else ID[word]


def forward_question(fact: Fact, wording: int) -> Question:
    """A question that a document with this fact answers."""
    return Question(question_text(fact.place, fact.attribute, wording), fact.value, KIND[fact.attribute.name], fact.place.name)


def unstated_question(place: Place, attribute: Attribute, wording: int) -> Question:
    """One that a document does not answer."""
    return Question(question_text(place, attribute, wording), tuple(NOT_STATED.split()), KIND[attribute.name], place.name)


def reverse_question(attribute: Attribute, value: tuple[str, ...], answer: tuple[str, ...], frame: int) -> Question:
    """One for the place with a value."""
    return Question(reverse_text(attribute, value, frame), answer, KIND[attribute.name], word=value[attribute.key_slot])


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


def write_document(episode: _Episode, document: Document) -> dict[tuple, int]:
    """Puts the document and the separator behind the first token; returns where each word of a value is, by (place, kind, index)
    and by (word, kind)."""
    where = {}
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
                episode.mark(first + start + index, KIND[fact.attribute.name], index, fact.place.name, fact.value[index])
                where[fact.place.name, KIND[fact.attribute.name], index] = first + start + index
                where[fact.value[index], KIND[fact.attribute.name]] = first + start + index
            at = first + start + n
    episode.add(SEPARATOR, len(episode.ids), 0)
    for at in range(len(episode.ids) - 1):
        episode.stated[at] = episode.ids[at + 1]
    return where


def write_questions(
    rng: random.Random, episode: _Episode, questions: Sequence[tuple[Question, int]], where: dict[tuple, int], sequence: bool
) -> None:
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
            episode.mark(first + index, question.kind, index, question.place, question.word)
            key = (question.place, question.kind, index) if question.place else (question.word, question.kind)
            if index == 0 or (question.place and group == 0 and word):
                episode.source[first + index] = 0 if group >= 2 else where[key]


def draw_batch(rng: random.Random, size: int, facts: tuple[int, int], places: tuple[int, int], num_questions: int) -> Batch:
    """`size` episodes with numbers of facts and places in these ranges."""
    episodes, sequences = [], []
    for _ in range(size):
        num_places = rng.randint(*places)
        num_facts = min(rng.randint(*facts), num_places * len(ATTRIBUTES) - 2)
        document = draw_document(rng, num_facts, num_places)
        episode = _Episode.begin()
        where = write_document(episode, document)
        sequences.append(rng.random() < P_SEQUENCE)
        write_questions(rng, episode, draw_questions(rng, document, num_questions), where, sequences[-1])
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
        **{name: column(name, IGNORED) for name in ("answer", "stated", "place", "word", "kind", "index", "source", "group")},
    )
