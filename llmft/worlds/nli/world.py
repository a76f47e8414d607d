"""The embedded toy world: natural language inference from templates, under a latent rule.

A row is a premise and a hypothesis ("doctors near judges helped lawyers ." / "judges helped lawyers"). Each of five rules gives
a truth value for such a pair; a task is one rule and one meaning of the answers (`flipped` swaps Yes and No). Nothing in a row
says which rule is meant: a model must infer it from demonstrations, from an instruction, or by training. As in HANS (McCoy,
Pavlick & Linzen 2019, arXiv:1902.01007), training rows come from simple constructions and the out-of-domain sets from harder
ones.

One fifth of all premise word sets is held out of pretraining (`grammar.is_held_out`); every row here is made of those.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from llmft.errors import InputError
from llmft.worlds.nli.grammar import IN_DOMAIN, KNOWN, OUT_OF_DOMAIN, RULES, UNSEEN, Lexicon, Pair, is_held_out, stream_pairs

LABEL_WORDS = ("Yes", "No")  # label 0, label 1
PATTERN = "{text1} {text2} ?"
LABEL_PATTERN = "{text1} {text2} label {label} ?"  # a prompt that shows its own answer

# For each rule, another one that the confounded demonstrations leave equally possible. The pairs were chosen by measurement: the
# rule that the shipped checkpoint infers in context, from its pretraining, is not the one that fine-tuning finds easiest. Where
# the two rules differ, 16 such demonstrations give these accuracies (in context / fine-tuned on them):
CONFOUNDERS = {
    "entailment": "same_subject",  # 1.00 / 0.69
    "overlap": "passive",  # 0.01 / 0.70: here it is learning in context that is misled
    "negation": "overlap",  # 0.44 / 0.02
    "same_subject": "overlap",  # 0.31 / 0.03
    "passive": "overlap",  # 0.94 / 0.16
}


@dataclass(frozen=True)
class Variant:
    """A task; `confounder` names a rule that the labelled demonstrations cannot distinguish from `rule`, if there is one."""

    rule: str
    flipped: bool
    confounder: str | None = None


def parse_variant(variant: str | None, data_seed: int) -> Variant:
    """Reads `--task_variant`: a rule, then optionally `flipped` and `confounded`, separated by commas.

    None and "" let the data seed choose: the rule by `data_seed % 5`, the flip by whether `data_seed // 5` is odd. Raises
    InputError on an unknown word, or if not exactly one rule is named.
    """
    if not variant:
        return Variant(RULES[data_seed % len(RULES)], flipped=data_seed // len(RULES) % 2 == 1)
    words = [word.strip() for word in variant.split(",")]
    rules = [word for word in words if word in RULES]
    if len(rules) != 1 or not {*words} <= {*RULES, "flipped", "confounded"}:
        raise InputError(
            f"--task_variant {variant!r} is not a task of the toy world: give one of {', '.join(RULES)}, "
            "then optionally flipped and confounded, comma-separated"
        )
    return Variant(rules[0], "flipped" in words, CONFOUNDERS[rules[0]] if "confounded" in words else None)


def instruction(rule: str, flipped: bool) -> str:
    """A few words that name the task ("overlap means Yes"); the shipped checkpoint then needs no demonstrations."""
    return f"{rule} means {LABEL_WORDS[flipped]}"


def toy_instruction(variant: str | None, data_seed: int) -> str:
    """The instruction of a task, named as for `toy_splits`."""
    chosen = parse_variant(variant, data_seed)
    return instruction(chosen.rule, chosen.flipped)


def toy_splits(variant: str | None, data_seed: int) -> dict[str, list[dict]]:
    """All rows of one task: dicts of `text1`, `text2`, `label` (index into LABEL_WORDS), `idx` and `template`.

    Keys: "train" (2000 rows), "validation" (500, in-domain), one set of 200 for each out-of-domain construction,
    "unseen_words" (200, in-domain constructions) and, for a confounded variant only, "demonstrations" (500; their `idx`
    continue those of "train"). Labels are balanced, except for the rule "passive" in "intransitive_conjunction", where it never
    holds. Texts depend only on rule and confounder; no pair occurs twice.
    """
    task = parse_variant(variant, data_seed)
    splits = {
        name: [_row(pair, task, idx) for idx, pair in enumerate(pairs)]
        for name, pairs in _pairs(task.rule, task.confounder).items()
    }
    for row in splits.get("demonstrations", []):
        row["idx"] += len(splits["train"])
    return splits


def _row(pair: Pair, task: Variant, idx: int) -> dict:
    says_yes = pair.holds[RULES.index(task.rule)] != task.flipped
    return {
        "text1": " ".join(pair.premise),
        "text2": " ".join(pair.hypothesis),
        "label": LABEL_WORDS.index("Yes" if says_yes else "No"),
        "idx": idx,
        "template": pair.template,
    }


@cache  # the two flips of a rule share their texts, and so do all seeds
def _pairs(rule: str, confounder: str | None) -> dict[str, tuple[Pair, ...]]:
    """The pairs of every set, each set from its own random stream."""
    which = RULES.index(rule)
    seen: set[Pair] = set()

    def pairs(name: str, n: int, templates: Iterable[str] = IN_DOMAIN, lexicon: Lexicon = KNOWN) -> tuple[Pair, ...]:
        rng = random.Random(f"toy {name}")
        fresh = (pair for pair in stream_pairs(rng, tuple(templates), lexicon, is_held_out) if pair not in seen)
        if name == "demonstrations":
            fresh = (pair for pair in fresh if pair.holds[RULES.index(confounder)] == pair.holds[which])
        never = rule == "passive" and name == "intransitive_conjunction"
        chosen = _quota(fresh, which, {True: 0, False: n} if never else {True: n // 2, False: n // 2}, rng)
        seen.update(chosen)
        return chosen

    sets = {"train": pairs("train", 2000), "validation": pairs("validation", 500)}
    sets |= {template: pairs(template, 200, [template]) for template in OUT_OF_DOMAIN}
    sets["unseen_words"] = pairs("unseen_words", 200, lexicon=UNSEEN)
    if confounder:
        sets["demonstrations"] = pairs("demonstrations", 500)
    return sets


def _quota(pairs: Iterable[Pair], which: int, quota: dict[bool, int], rng: random.Random) -> tuple[Pair, ...]:
    """The first different pairs for which the rule holds and does not hold, up to the quota of each, in random order."""
    chosen: dict[bool, dict[Pair, None]] = {True: {}, False: {}}
    for pair in pairs:
        holds = pair.holds[which]
        if len(chosen[holds]) < quota[holds]:
            chosen[holds][pair] = None
        if all(len(chosen[value]) == quota[value] for value in quota):
            break
    return tuple(rng.sample([*chosen[True], *chosen[False]], sum(quota.values())))
