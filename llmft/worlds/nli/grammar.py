"""How the toy world makes sentence pairs: words, constructions, what they entail, and which rules hold for a pair."""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

RULES = ("entailment", "overlap", "negation", "same_subject", "passive")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("tall angry young famous tired happy")
PREPOSITIONS = _words("near behind beside")
FUNCTION_WORDS = _words("were by and who that never . ?")


@dataclass(frozen=True)
class Lexicon:
    """Content words. Verbs are their own participles, so a passive needs no second form."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    intransitives: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All of them."""
        return self.nouns + self.verbs + self.intransitives


KNOWN = Lexicon(
    nouns=_words(
        "doctors lawyers judges actors bankers students artists authors tourists managers senators scientists "
        "athletes presidents secretaries professors nurses farmers pilots bakers singers dancers waiters drivers "
        "teachers sailors soldiers painters tailors miners chefs clerks poets monks kings guards"
    ),
    verbs=_words(
        "helped called thanked admired visited avoided supported contacted followed mentioned trusted noticed blamed "
        "praised chased hired"
    ),
    intransitives=_words("slept danced smiled shouted arrived waited laughed resigned"),
)
UNSEEN = Lexicon(  # pretraining keeps re-drawing their embeddings, so those of the finished model are new to it
    nouns=_words("queens hunters weavers potters barbers jugglers wizards pirates knights plumbers grocers brokers"),
    verbs=_words("greeted teased joined ignored rescued warned"),
    intransitives=_words("sneezed yawned coughed prayed"),
)
_CONTENT_WORDS = frozenset(KNOWN.words + UNSEEN.words)


@dataclass(frozen=True)
class Template:
    """A premise and what follows from it.

    Slots are capital letters: A B C nouns, V W verbs, I J intransitives, D an adjective, P a preposition.
    """

    premise: str
    entailed: tuple[str, ...]
    traps: tuple[str, ...] = ()  # made of the premise's own words, yet not entailed


IN_DOMAIN = {
    "active": Template("A V B", ("A V B",)),
    "adjective": Template("D A V B", ("A V B",)),
    "prepositional": Template("A P C V B", ("A V B",), ("C V B",)),
    "subject_conjunction": Template("A and C V B", ("A V B", "C V B"), ("A V C",)),
    "negated": Template("A never V B", ("A never V B",)),
    "intransitive": Template("A I", ("A I",)),
    "intransitive_prepositional": Template("A P C I", ("A I",), ("C I",)),
}
OUT_OF_DOMAIN = {
    "passive": Template("B were V by A", ("A V B",)),
    "subject_relative": Template("A who V C W B", ("A V C", "A W B"), ("C W B",)),
    "object_relative": Template("A that C V W B", ("C V A", "A W B"), ("C W B", "A V C")),
    "object_conjunction": Template("A V B and C", ("A V B", "A V C"), ("B V C", "C V B")),
    "intransitive_conjunction": Template("A and C I", ("A I", "C I")),
}
TEMPLATES = IN_DOMAIN | OUT_OF_DOMAIN


@dataclass(frozen=True)
class Claim:
    """What a hypothesis states: who did (or never did) what to whom; `patient` is None after an intransitive."""

    agent: str
    action: str
    patient: str | None
    negated: bool = False

    def words(self, passive: bool) -> list[str]:
        """The claim as a hypothesis; claims without a patient are always active."""
        never = ["never"] if self.negated else []
        if self.patient is None:
            return [self.agent, *never, self.action]
        if passive:
            return [self.patient, "were", *never, self.action, "by", self.agent]
        return [self.agent, *never, self.action, self.patient]


@dataclass(frozen=True)
class Pair:
    """A premise (with its full stop), a hypothesis (without its question mark), and whether each of `RULES` holds."""

    premise: tuple[str, ...]
    hypothesis: tuple[str, ...]
    template: str
    holds: tuple[bool, ...]


def is_held_out(premise: tuple[str, ...]) -> bool:
    """Whether a premise's set of content words, in any order, is held out of pretraining, as one fifth of all sets are."""
    content = sorted(word for word in premise if word in _CONTENT_WORDS)
    return zlib.crc32(" ".join(content).encode()) % 5 == 0


def draw_slots(rng: random.Random, template: str, lexicon: Lexicon) -> dict[str, str]:
    """Draws the words of a premise, and those by which a hypothesis may differ from it."""
    words = TEMPLATES[template].premise.split()
    slots = dict(zip("ABC", rng.sample(lexicon.nouns, 3), strict=True))
    if "I" in words:
        slots |= dict(zip("IJ", rng.sample(lexicon.intransitives, 2), strict=True))
    else:
        slots |= dict(zip("VW", rng.sample(lexicon.verbs, 2), strict=True))
    return slots | {"D": rng.choice(ADJECTIVES), "P": rng.choice(PREPOSITIONS)}


def draw_pair(rng: random.Random, template: str, slots: dict[str, str], premise: tuple[str, ...], lexicon: Lexicon) -> Pair:
    """Draws a hypothesis: a third are entailed, others contradict the premise, reuse its words or use new ones."""
    form = TEMPLATES[template]
    entailed = [_claim(text, slots) for text in form.entailed]
    claim = rng.choice(entailed)
    if rng.random() < 0.65:  # more than half, or overlap would almost imply entailment
        negated = rng.random() < 0.4
        if negated != claim.negated and rng.random() < 0.8:
            claim = Claim(claim.agent, claim.action, claim.patient, negated)
        else:
            claim = _corrupted(rng, claim, [_claim(text, slots) for text in form.traps], slots, lexicon, negated)
    hypothesis = claim.words(passive=rng.random() < 0.4)

    subject = next(word for word in premise if word not in ADJECTIVES)
    holds = {
        "entailment": claim in entailed,
        "overlap": all(word in premise for word in hypothesis if word in _CONTENT_WORDS),
        "negation": "never" in hypothesis,
        "same_subject": hypothesis[0] == subject,
        "passive": "were" in hypothesis,
    }
    return Pair(premise, tuple(hypothesis), template, tuple(holds[rule] for rule in RULES))


def _claim(text: str, slots: dict[str, str]) -> Claim:
    agent, *rest = (slots.get(word, word) for word in text.split())
    negated = rest[0] == "never"
    action, *patient = rest[1:] if negated else rest
    return Claim(agent, action, patient[0] if patient else None, negated)


def _corrupted(
    rng: random.Random, claim: Claim, traps: list[Claim], slots: dict[str, str], lexicon: Lexicon, negated: bool
) -> Claim:
    """A claim of this polarity that the premise does not entail: a trap, its roles swapped, or one word replaced."""

    def new(words: tuple[str, ...], used: str) -> str:
        return rng.choice([word for word in words if word not in [slots[slot] for slot in used]])

    agent, action, patient = claim.agent, claim.action, claim.patient
    if traps and rng.random() < (0.6 if patient is None else 0.4):
        trap = rng.choice(traps)
        agent, action, patient = trap.agent, trap.action, trap.patient
    elif patient is None:
        if rng.random() < 0.5:
            agent = new(lexicon.nouns, "ABC")
        else:
            action = slots["J"]
    else:
        change = rng.choices(("swap", "agent", "patient", "action"), (0.5, 0.17, 0.17, 0.16))[0]
        if change == "swap":
            agent, patient = patient, agent
        elif change == "agent":
            agent = new(lexicon.nouns, "ABC")
        elif change == "patient":
            patient = new(lexicon.nouns, "ABC")
        else:
            action = new(lexicon.verbs, "VW")
    return Claim(agent, action, patient, negated)


def stream_pairs(
    rng: random.Random, templates: tuple[str, ...], lexicon: Lexicon, wanted: Callable[[tuple[str, ...]], bool]
) -> Iterator[Pair]:
    """Endless pairs from the given templates, each equally often, whose premise is wanted."""
    while True:
        template = rng.choice(templates)
        slots = draw_slots(rng, template, lexicon)
        premise = (*(slots.get(word, word) for word in TEMPLATES[template].premise.split()), ".")
        if wanted(premise):
            yield draw_pair(rng, template, slots, premise, lexicon)
