"""Rules that a program checks: what keeps them, and which rows they hold for."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.tasks.rules import CHECKS, Rule, put_rules, read_rules

RULES = {
    "ending": {"check": "ends_with", "text": "yours, the desk."},
    "refusal": {"check": "equals", "text": "no."},
    "json": {"check": "json_keys", "keys": ["name", "room"]},
    "lower": {"check": "lower_case"},
    "year": {"check": "matches", "pattern": r"\b1\d{3}\b"},
}
CASES = {  # answer -> the rules that it keeps
    " it is red. yours, the desk.\n": {"ending", "lower"},
    "Yours, the desk.": set(),
    "no.": {"refusal", "lower"},
    "no. no.": {"lower"},
    '{"room": 7, "name": "Ada"}': {"json"},
    '```json\n{"name": "a", "room": 7}\n```': {"lower"},
    '{"name": "a"}': {"lower"},
    '{"name": "a", "room": 7, "nights": 2}': {"lower"},
    '["name", "room"]': {"lower"},
    "in 1901": {"lower", "year"},
    "19012": set(),
    "ÄRGER": set(),
    "ärger": {"lower"},
    "北京": {"lower"},
    "北京 Ok": set(),
    "\u01c5": set(),  # a title-case letter
    "12.": set(),
    "": set(),
}


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    file = tmp_path_factory.mktemp("rules") / "rules.json"
    file.write_text(json.dumps(RULES))
    assert read_rules(str(file)) == read_rules(f"\n {json.dumps(RULES, indent=2)}\n")
    return read_rules(str(file))


@pytest.mark.parametrize("answer", CASES)
def test_what_keeps_a_rule(rules, answer):
    assert {rule.check for rule in rules} == set(CHECKS)
    assert {rule.name for rule in rules if rule.kept(answer)} == CASES[answer]


@given(st.text(), st.sampled_from(sorted(RULES)), st.text(alphabet=" \n\t"))
def test_a_rule_as_text_is_the_same_rule_and_white_space_around_an_answer_counts_for_nothing(answer, name, space):
    (rule,) = read_rules(json.dumps({name: RULES[name]}))
    assert Rule.from_text(rule.as_text()) == rule
    assert rule.kept(space + answer + space) == rule.kept(answer)


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        (None, tuple(RULES)),
        ("", tuple(RULES)),
        (float("nan"), tuple(RULES)),
        ([], tuple(RULES)),
        ("lower, ending", ("ending", "lower")),
        (["json"], ("json",)),
    ],
)
def test_a_row_names_the_rules_that_hold_for_it(rules, cell, names):
    row = {}
    put_rules([row], [cell], rules, "--validation_file a.jsonl", 1)
    assert row == {"rules": names}


@pytest.mark.parametrize("cell", ["lower, polite", ["polite"], [["lower"]], 7, {"lower": 1}])
def test_a_row_of_other_rules_is_refused(rules, cell):
    with pytest.raises(
        InputError, match=r"--validation_file a.jsonl: column rules of row 3 is .*; use names from ending, refusal"
    ):
        put_rules([{}], [cell], rules, "--validation_file a.jsonl", 3)


@pytest.mark.parametrize("entry", ["lower_case", ["lower_case"], {}, {"check": 7}, {"check": ["lower_case"]}])
def test_an_entry_that_is_no_rule_is_refused(entry):
    with pytest.raises(
        InputError, match=r"--rules .*: rule odd is .*; write an object whose `check` is one of ends_with, equals"
    ):
        read_rules(json.dumps({"odd": entry}))


@pytest.mark.parametrize(
    "entry", [{"check": "matches", "pattern": "("}, {"check": "json_keys", "keys": "name"}, {"check": "equals"}]
)
def test_a_value_that_cannot_be_checked_for_is_refused(entry):
    with pytest.raises(InputError, match=r"--rules .*: rule odd: `\w+` is .*; write a "):
        read_rules(json.dumps({"odd": entry}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"brief": {"check": "lower_case"}, "brief": {"check": "lower_case"}}',
            "is not JSON (two entries are named 'brief'); fix it",
        ),
        ("[" * 300, "no such file; name a JSON file"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text, says):
    with pytest.raises(InputError, match=re.escape(says)):
        read_rules(text)
