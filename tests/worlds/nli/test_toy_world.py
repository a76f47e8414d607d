"""The world: labels re-derived from the texts by other means, balance, what is held out, variants, errors."""

import random
from itertools import islice

import pytest

from llmft.errors import InputError
from llmft.worlds.nli import grammar, world
from llmft.worlds.nli.grammar import KNOWN, OUT_OF_DOMAIN, RULES, UNSEEN
from llmft.worlds.nli.world import LABEL_WORDS, Variant, parse_variant, toy_splits

NOUNS = {*KNOWN.nouns, *UNSEEN.nouns}
SETS = ("train", "validation", *OUT_OF_DOMAIN, "unseen_words")


def entailed(premise: list[str], template: str) -> set[tuple]:
    """What follows from a premise, as (agent, verb, patient, negated), read off word positions, by hand."""
    p = premise
    match template:
        case "active":
            return {(p[0], p[1], p[2], False)}
        case "adjective":
            return {(p[1], p[2], p[3], False)}
        case "prepositional":
            return {(p[0], p[3], p[4], False)}
        case "subject_conjunction":
            return {(p[0], p[3], p[4], False), (p[2], p[3], p[4], False)}
        case "negated":
            return {(p[0], p[2], p[3], True)}
        case "intransitive":
            return {(p[0], p[1], None, False)}
        case "intransitive_prepositional":
            return {(p[0], p[3], None, False)}
        case "passive":
            return {(p[4], p[2], p[0], False)}
        case "subject_relative":
            return {(p[0], p[2], p[3], False), (p[0], p[4], p[5], False)}
        case "object_relative":
            return {(p[2], p[3], p[0], False), (p[0], p[4], p[5], False)}
        case "object_conjunction":
            return {(p[0], p[1], p[2], False), (p[0], p[1], p[4], False)}
        case "intransitive_conjunction":
            return {(p[0], p[3], None, False), (p[2], p[3], None, False)}
    raise AssertionError(template)


def rule_holds(rule: str, row: dict) -> bool:
    premise, hypothesis = row["text1"].removesuffix(" .").split(), row["text2"].split()
    negated, passive = "never" in hypothesis, "were" in hypothesis
    content = [word for word in hypothesis if word not in ("never", "were", "by")]
    if rule == "overlap":
        return set(content) <= set(premise)
    if rule == "same_subject":
        return hypothesis[0] == next(word for word in premise if word in NOUNS)
    if rule == "negation":
        return negated
    if rule == "passive":
        return passive
    agent, verb, *patient = content[::-1] if passive else content
    return (agent, verb, patient[0] if patient else None, negated) in entailed(premise, row["template"])


@pytest.fixture(scope="module", params=RULES)
def task(request):
    return request.param, toy_splits(request.param, 0)


def test_labels_follow_from_the_texts(task):
    rule, splits = task
    for rows in splits.values():
        assert all(LABEL_WORDS[row["label"]] == ("Yes" if rule_holds(rule, row) else "No") for row in rows)


def test_sizes_balance_and_constructions(task):
    rule, splits = task
    assert tuple(splits) == SETS
    for name, rows in splits.items():
        assert len(rows) == {"train": 2000, "validation": 500}.get(name, 200)
        assert [row["idx"] for row in rows] == list(range(len(rows)))
        assert {row["template"] for row in rows} == ({name} if name in OUT_OF_DOMAIN else set(grammar.IN_DOMAIN))
        if (rule, name) == ("passive", "intransitive_conjunction"):
            assert all(row["label"] == 1 for row in rows)
        else:
            assert sum(row["label"] for row in rows) * 2 == len(rows)


def test_no_pair_occurs_twice_and_none_was_in_reach_of_pretraining(task):
    rows = [row for rows in task[1].values() for row in rows]
    assert len({(row["text1"], row["text2"]) for row in rows}) == len(rows)
    assert all(grammar.is_held_out(tuple(row["text1"].split())) for row in rows)


def test_unseen_words_are_in_their_set_only(task):
    for name, rows in task[1].items():
        for row in rows:
            words = {*row["text1"].split(), *row["text2"].split()}
            assert not words & set((KNOWN if name == "unseen_words" else UNSEEN).words)


def test_held_out_is_about_sets_of_content_words():
    pair = ("doctors", "near", "judges", "helped", "kings", ".")
    same = ("kings", "that", "judges", "helped", "doctors", ".")
    assert grammar.is_held_out(pair) == grammar.is_held_out(same)
    stream = grammar.stream_pairs(random.Random(0), tuple(grammar.TEMPLATES), KNOWN, lambda premise: True)
    assert 0.15 < sum(grammar.is_held_out(pair.premise) for pair in islice(stream, 2000)) / 2000 < 0.25


def test_a_flip_swaps_the_labels_and_nothing_else():
    plain, flipped = toy_splits("overlap", 0), toy_splits("overlap,flipped", 3)
    for name in SETS:
        assert [{**row, "label": 1 - row["label"]} for row in plain[name]] == flipped[name]


def test_rows_are_the_same_every_time_and_do_not_depend_on_the_data_seed():
    assert toy_splits("negation", 0) == toy_splits("negation", 7)
    assert toy_splits(None, 2) == toy_splits("negation", 0)


@pytest.mark.parametrize("rule", RULES)
def test_confounded_demonstrations_leave_two_rules_open_and_only_these_do(rule):
    splits = toy_splits(f"{rule},confounded", 0)
    confounder = world.CONFOUNDERS[rule]

    def agreement(rows):
        return sum(rule_holds(rule, row) == rule_holds(confounder, row) for row in rows) / len(rows)

    demonstrations = splits.pop("demonstrations")
    assert agreement(demonstrations) == 1.0
    assert sum(row["label"] for row in demonstrations) * 2 == len(demonstrations)
    assert [row["idx"] for row in demonstrations] == list(range(2000, 2500))
    assert splits == toy_splits(rule, 0)
    assert agreement(splits["train"]) < 0.85 and agreement(splits["validation"]) < 0.85


def test_variants():
    assert parse_variant("overlap", 4) == Variant("overlap", False)
    assert parse_variant("flipped, entailment,confounded", 0) == Variant("entailment", True, world.CONFOUNDERS["entailment"])
    drawn = {(task.rule, task.flipped) for task in (parse_variant("", seed) for seed in range(10))}
    assert len(drawn) == 10
    assert parse_variant(None, 0) == parse_variant(None, 10) == Variant("entailment", False)


@pytest.mark.parametrize("variant", ["entailmnt", "overlap,entailment", "flipped", "overlap,fliped", ","])
def test_a_bad_variant_is_named_in_one_line(variant):
    with pytest.raises(InputError) as error:
        parse_variant(variant, 0)
    message = str(error.value)
    assert "--task_variant" in message and repr(variant) in message and "\n" not in message
    assert all(rule in message for rule in RULES)


def test_instructions_name_the_rule_and_its_answer():
    assert world.instruction("overlap", False) == "overlap means Yes"
    assert world.instruction("passive", True) == "passive means No"
