"""Pretraining text: endless episodes of one latent task each, cut to a length, with everything that the losses need."""

import random
from dataclasses import dataclass

import numpy as np

from llmft.worlds.nli import grammar
from llmft.worlds.nli.grammar import RULES
from llmft.worlds.nli.tokenizer import BLANK_LINE, BOS, ID
from llmft.worlds.nli.world import LABEL_WORDS, instruction

LatentTask = tuple[str, bool]  # a rule, and whether Yes and No are flipped
LATENT_TASKS: tuple[LatentTask, ...] = tuple((rule, flipped) for rule in RULES for flipped in (False, True))

# The prior over rules. Entailment is the most likely, so that a context which leaves two rules possible is read as entailment.
RULE_WEIGHTS = {"entailment": 0.35, "overlap": 0.2, "negation": 0.15, "same_subject": 0.15, "passive": 0.15}
P_INSTRUCTION = 0.25  # of the episodes open with an instruction
P_SOME_SHOWN, P_ALL_SHOWN = 0.15, 0.1  # of the episodes show the answer in a third of their queries, or in all
P_PLACEHOLDERS = 0.25  # of the pairs are made of the UNSEEN words, whose embeddings pretraining keeps re-drawing
# The share of episodes without an instruction that begin with Yes. Below one half, the best guess without a context is
# a constant "No", so that an accidental bias towards some word cannot pass for knowledge of a rule.
P_FIRST_YES = 0.35


@dataclass(frozen=True)
class Batch:
    """B episodes of T tokens. A query position is the place of a question mark, where the answer is due."""

    ids: np.ndarray  # (B, T) token ids
    answer: np.ndarray  # (B, T) label token id at query positions, -100 elsewhere
    plain: np.ndarray  # (B, T) query positions that do not show their answer
    shot: np.ndarray  # (B, T) at query positions, how many queries came before in the episode
    holds: np.ndarray  # (B, T, 5) at query positions, which rules hold for the pair
    task: np.ndarray  # (B,) index into LATENT_TASKS
    instructed: np.ndarray  # (B,) whether the episode opens with an instruction


class Pairs:
    """Encoded pairs for pretraining, which can be drawn by a rule's value. No held-out premise is among them."""

    def __init__(self, n: int, rng: random.Random):
        known, placeholder = (
            grammar.stream_pairs(rng, tuple(grammar.TEMPLATES), lexicon, lambda premise: not grammar.is_held_out(premise))
            for lexicon in (grammar.KNOWN, grammar.UNSEEN)
        )
        pairs = [next(placeholder if rng.random() < P_PLACEHOLDERS else known) for _ in range(n)]
        self.ids = [[ID[word] for word in (*pair.premise, *pair.hypothesis)] for pair in pairs]
        self.holds = [pair.holds for pair in pairs]
        self._where = {
            (rule, value): [i for i, holds in enumerate(self.holds) if holds[which] is value]
            for which, rule in enumerate(RULES)
            for value in (False, True)
        }

    def draw(self, rng: random.Random, rule: str, value: bool) -> int:
        """The index of a random pair for which `rule` has this value."""
        return rng.choice(self._where[rule, value])


def choose_tasks(n: int, rng: random.Random) -> tuple[LatentTask, ...]:
    """Draws n of the latent tasks, returned in the order of LATENT_TASKS."""
    return tuple(sorted(rng.sample(LATENT_TASKS, n), key=LATENT_TASKS.index))


def draw_batch(rng: random.Random, pairs: Pairs, tasks: tuple[LatentTask, ...], size: int, length: int) -> Batch:
    """`size` episodes of exactly `length` tokens each; the last query may be cut off."""
    batch = Batch(
        ids=np.zeros((size, length), np.int64),
        answer=np.full((size, length), -100, np.int64),
        plain=np.zeros((size, length), bool),
        shot=np.full((size, length), -1, np.int64),
        holds=np.zeros((size, length, len(RULES)), bool),
        task=np.zeros(size, np.int64),
        instructed=np.zeros(size, bool),
    )
    weights = [RULE_WEIGHTS[rule] for rule, _ in tasks]
    for row in range(size):
        task = rng.choices(tasks, weights)[0]
        batch.task[row] = LATENT_TASKS.index(task)
        _write_episode(batch, row, rng, pairs, task)
    return batch


def _write_episode(batch: Batch, row: int, rng: random.Random, pairs: Pairs, task: LatentTask) -> None:
    rule, flipped = task
    length = batch.ids.shape[1]
    ids = [BOS]
    batch.instructed[row] = rng.random() < P_INSTRUCTION
    if batch.instructed[row]:
        ids += [ID[word] for word in instruction(rule, flipped).split()] + [ID[BLANK_LINE]]
    p_shown = rng.choices((1.0, 1 / 3, 0.0), (P_ALL_SHOWN, P_SOME_SHOWN, 1 - P_ALL_SHOWN - P_SOME_SHOWN))[0]

    shot = 0
    while len(ids) < length:
        yes = rng.random() < (P_FIRST_YES if shot == 0 and not batch.instructed[row] else 0.5)
        pair = pairs.draw(rng, rule, yes != flipped)
        shown = rng.random() < p_shown
        ids += pairs.ids[pair]
        if shown:  # any answer, right or wrong: a shown answer is to be read, not judged
            yes = rng.random() < 0.5
        answer = ID[LABEL_WORDS[0 if yes else 1]]
        ids += [ID["label"], answer, ID["?"]] if shown else [ID["?"]]
        at = len(ids) - 1
        if at < length:
            batch.answer[row, at] = answer
            batch.plain[row, at] = not shown
            batch.shot[row, at] = shot
            batch.holds[row, at] = pairs.holds[pair]
        ids += [answer, ID[BLANK_LINE]]
        shot += 1
    batch.ids[row] = ids[:length]
