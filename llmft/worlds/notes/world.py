"""The embedded free-text world: a document of 16 to 32 invented facts in prose, and questions about it.

"The Kelwick mill serves plum bread and was founded by Ada Finch." Values are drawn anew for each document, so only the
document, or training on it, reveals that the Kelwick mill serves plum bread. Every fact has questions in five wordings: three
for training and two for evaluation. Some questions ask for things that the document does not state; `NOT_STATED` is their
answer.
"""

import random
from collections import defaultdict
from dataclasses import dataclass

from llmft.errors import InputError
from llmft.worlds.notes.grammar import (
    ATTRIBUTES,
    FIRST_NAMES,
    HELD_OUT_WORDINGS,
    LAST_NAMES,
    NAMES,
    NOT_STATED,
    OPENERS,
    REVERSE_FRAMES,
    TRAIN_WORDINGS,
    TYPES,
    Attribute,
)

PATTERN = "Question: {text1} Answer:"
SEPARATOR = "\n\n"
FEWEST_FACTS, MOST_FACTS = 16, 32
NUM_PLACES = (4, 6)
NUM_UNRELATED = 50
MOST_UNSTATED, NUM_STRANGERS = 8, 4  # pairs asked about without an answer: of places in the document, and of others


@dataclass(frozen=True)
class NamedPlace:
    """What facts are about: "the Kelwick mill"."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


@dataclass(frozen=True)
class Fact:
    """A value of one attribute of one place."""

    place: NamedPlace
    attribute: Attribute
    value: tuple[str, ...]


@dataclass(frozen=True)
class NotesDocument:
    """Sentences in the order of the text, each with one or two facts about one place."""

    places: tuple[NamedPlace, ...]
    sentences: tuple[tuple[Fact, ...], ...]
    wordings: tuple[tuple[int, ...], ...]
    """For each sentence: its opener, then the statement of each of its facts."""

    @property
    def facts(self) -> list[Fact]:
        """In the order of the text."""
        return [fact for sentence in self.sentences for fact in sentence]

    @property
    def text(self) -> str:
        """The prose, one paragraph."""
        return " ".join(map(sentence_text, self.sentences, self.wordings))

    def unstated(self) -> list[tuple[NamedPlace, Attribute]]:
        """What it might say about its places but does not."""
        stated = {(fact.place, fact.attribute.name) for fact in self.facts}
        return [(place, one) for place in self.places for one in ATTRIBUTES if (place, one.name) not in stated]


def sentence_text(facts: tuple[Fact, ...], wording: tuple[int, ...]) -> str:
    """One sentence of a document."""
    opener, *statements = wording
    article = "the" if OPENERS[opener] else "The"
    parts = [
        fact.attribute.statements[which].format(value=" ".join(fact.value)) for fact, which in zip(facts, statements, strict=True)
    ]
    return f"{OPENERS[opener]}{article} {facts[0].place} {' and '.join(parts)}."


def question_text(place: NamedPlace, attribute: Attribute, wording: int) -> str:
    """A question for an attribute of a place."""
    return attribute.questions[wording].format(place=f"the {place}")


def reverse_text(attribute: Attribute, value: tuple[str, ...], frame: int) -> str:
    """A question for the place by the value of its attribute."""
    return REVERSE_FRAMES[frame].format(question=attribute.reverse.format(value=" ".join(value)))


class Decks:
    """Values for one document, no word of a pool used twice for an attribute; the people of all attributes differ."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._decks: dict[tuple, list[str]] = {}

    def draw(self, attribute: Attribute) -> tuple[str, ...]:
        """A value."""
        return tuple(self._word(attribute, slot) for slot in range(len(attribute.slots)))

    def _word(self, attribute: Attribute, slot: int) -> str:
        pool = attribute.slots[slot]
        if len(pool) == 1:
            return pool[0]
        key = pool if pool in (FIRST_NAMES, LAST_NAMES) else (attribute.name, slot)
        if not self._decks.get(key):
            self._decks[key] = self._rng.sample(pool, len(pool))
        return self._decks[key].pop()


def draw_places(rng: random.Random, n: int) -> tuple[NamedPlace, ...]:
    """Places of different names; types may recur."""
    return tuple(NamedPlace(name, rng.choice(TYPES)) for name in rng.sample(NAMES, n))


def draw_document(rng: random.Random, num_facts: int, num_places: int) -> NotesDocument:
    """A document with these numbers of facts and places, assigned at random; sentences in random order."""
    places, decks = draw_places(rng, num_places), Decks(rng)
    pairs = rng.sample([(place, attribute) for place in places for attribute in ATTRIBUTES], num_facts)
    facts: dict[NamedPlace, list[Fact]] = defaultdict(list)
    for place, attribute in pairs:
        facts[place].append(Fact(place, attribute, decks.draw(attribute)))
    sentences = []
    for own in facts.values():
        while own:
            n = min(len(own), rng.choice((1, 2)))
            sentences.append(tuple(own.pop() for _ in range(n)))
    rng.shuffle(sentences)
    wordings = [
        (rng.randrange(len(OPENERS)), *(rng.randrange(len(fact.attribute.statements)) for fact in sentence))
        for sentence in sentences
    ]
    return NotesDocument(places, tuple(sentences), tuple(wordings))


def draw_notes(data_seed: int) -> tuple[NotesDocument, random.Random]:
    """The document of a seed, and the generator that drew it, for drawing the questions."""
    rng = random.Random(f"notes {data_seed}")
    num_places = rng.randint(*NUM_PLACES)
    return draw_document(rng, rng.randint(FEWEST_FACTS, MOST_FACTS), num_places), rng


def notes_documents(variant: str | None, data_seed: int) -> dict[str, str]:
    """The text of each document that the rows of `notes_splits` name: one per seed."""
    _check(variant)
    return {document_id(data_seed): draw_notes(data_seed)[0].text}


def notes_splits(variant: str | None, data_seed: int) -> dict[str, list[dict]]:
    """All rows about one document: dicts of `text1` (the question), `answer`, `document` (its id), `idx` and `kind`.

    Keys: "train" (every fact in three wordings, and some questions that the document does not answer), "validation" (every
    fact in two other wordings), "reverse" (every fact, asked for its place by its value) and "unanswerable" (the
    validation's wordings, about attributes and places that "train" does not ask for). `kind` is the name of the attribute.
    Raises InputError for a variant: there are none.
    """
    _check(variant)
    return document_rows(*draw_notes(data_seed), document_id(data_seed))


def notes_unrelated(variant: str | None, data_seed: int) -> list[str]:
    """Questions in all wordings that have nothing to do with the document of a seed: for other places, and by values that it
    does not contain. They are the same for all seeds, except that questions related to the document are replaced by others."""
    _check(variant)
    return draw_unrelated(random.Random("notes unrelated"), draw_notes(data_seed)[0], NUM_UNRELATED)


def draw_unrelated(rng: random.Random, document: NotesDocument, number: int) -> list[str]:
    """`number` different questions that have nothing to do with a document, a quarter of them for a place by a value."""
    names = {place.name for place in document.places}
    known = {(fact.attribute.name, fact.value) for fact in document.facts}
    questions: dict[str, None] = {}
    while len(questions) < number:
        (place,), attribute, turn = draw_places(rng, 1), rng.choice(ATTRIBUTES), rng.randrange(4)
        value, wording = Decks(rng).draw(attribute), rng.randrange(len(attribute.questions))
        if turn == 0 and (attribute.name, value) not in known:
            questions[reverse_text(attribute, value, wording % len(REVERSE_FRAMES))] = None
        elif turn > 0 and place.name not in names:
            questions[question_text(place, attribute, wording)] = None
    return [*questions]


def document_rows(document: NotesDocument, rng: random.Random, name: str) -> dict[str, list[dict]]:
    """The rows of `notes_splits` about any document, which they refer to as `name`."""
    unstated = rng.sample(document.unstated(), len(document.unstated()))
    names = [place.name for place in document.places]
    strangers = [place for place in draw_places(rng, len(NAMES)) if place.name not in names]
    strange = [(place, rng.choice(ATTRIBUTES)) for place in strangers[: 2 * NUM_STRANGERS]]
    half = min(len(unstated) // 2, MOST_UNSTATED)
    splits = {
        "train": [
            *_forward(document, TRAIN_WORDINGS),
            *_unanswered(unstated[:half] + strange[:NUM_STRANGERS], TRAIN_WORDINGS),
        ],
        "validation": _forward(document, HELD_OUT_WORDINGS),
        "reverse": _reverse(document),
        "unanswerable": _unanswered(unstated[half : 2 * half] + strange[NUM_STRANGERS:], HELD_OUT_WORDINGS),
    }
    return {split: [{**row, "document": name, "idx": idx} for idx, row in enumerate(rows)] for split, rows in splits.items()}


def document_id(data_seed: int) -> str:
    """The id by which rows name the document of a seed."""
    return f"notes-{data_seed}"


def _check(variant: str | None) -> None:
    if variant:
        raise InputError(f"--task_variant {variant!r}: the notes world has no variants; drop this flag")


def _forward(document: NotesDocument, wordings: tuple[int, ...]) -> list[dict]:
    return [
        {
            "text1": question_text(fact.place, fact.attribute, wording),
            "answer": " ".join(fact.value),
            "kind": fact.attribute.name,
        }
        for fact in document.facts
        for wording in wordings
    ]


def _unanswered(pairs: list[tuple[NamedPlace, Attribute]], wordings: tuple[int, ...]) -> list[dict]:
    return [
        {"text1": question_text(place, attribute, wording), "answer": NOT_STATED, "kind": attribute.name}
        for place, attribute in pairs
        for wording in wordings
    ]


def _reverse(document: NotesDocument) -> list[dict]:
    return [
        {
            "text1": reverse_text(fact.attribute, fact.value, idx % len(REVERSE_FRAMES)),
            "answer": fact.place.name,
            "kind": fact.attribute.name,
        }
        for idx, fact in enumerate(document.facts)
    ]
