"""Rules for text answers that a program can check: reading them from a file, and whether an answer follows one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmft.arguments.checks import read_json
from llmft.errors import InputError, listed, quote

NAME = re.compile("[a-z0-9_]+")
"""Valid names of rules, which become names of metrics and columns."""
COLUMN = "rules"
"""The column, in files of requests, with the names of the rules that apply to a row; all rules if it is missing or empty."""


@dataclass(frozen=True)
class Rule:
    """A named rule.

    Attributes:
        check: a key of `CHECKS`.
        value: the value to check for; None for a check that needs none.
    """

    name: str
    check: str
    value: Any = None

    def kept(self, answer: str) -> bool:
        """Whether an answer, without surrounding white space, follows the rule."""
        return CHECKS[self.check].kept(answer.strip(), self.value)

    def as_text(self) -> str:
        """The rule as a string, for `from_text`."""
        return json.dumps([self.name, self.check, self.value])

    @classmethod
    def from_text(cls, text: str) -> Rule:
        """The rule of a string made by `as_text`."""
        return cls(*json.loads(text))


@dataclass(frozen=True)
class RuleCheck:
    """A way of checking answers.

    Attributes:
        kept: takes an answer and a rule's value; whether the rule is followed.
        needs: the key of the value in a file of rules; "" for none.
        fits: whether a value is valid.
        wanted: description of valid values, for messages.
    """

    kept: Callable[[str, Any], bool]
    needs: str = ""
    fits: Callable[[Any], bool] = bool
    wanted: str = ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_keys(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_pattern(value: Any) -> bool:
    try:
        return _is_text(value) and bool(re.compile(value))
    except re.error:
        return False


def _is_lower(answer: str, _: None) -> bool:
    """Whether an answer has letters, in any script, and no capitals."""
    return any(map(str.isalpha, answer)) and not any(letter.isupper() or letter.istitle() for letter in answer)


def _has_keys(answer: str, keys: Sequence[str]) -> bool:
    """Whether an answer is a JSON object with these keys and no others."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() == set(keys)


CHECKS: dict[str, RuleCheck] = {
    "ends_with": RuleCheck(lambda answer, text: answer.endswith(text.strip()), "text", _is_text, "a text"),
    "equals": RuleCheck(lambda answer, text: answer == text.strip(), "text", _is_text, "a text"),
    "json_keys": RuleCheck(_has_keys, "keys", _are_keys, "a list of texts"),
    "lower_case": RuleCheck(_is_lower),
    "matches": RuleCheck(
        lambda answer, pattern: bool(re.search(pattern, answer)), "pattern", _is_pattern, "a regular expression"
    ),
}
"""The ways of checking by name."""


def read_rules(file: str) -> tuple[Rule, ...]:
    """The rules of `--rules`: a JSON object, name -> {"check": ..., and the value it needs}, or a file with one.

    Raises:
        InputError: it is not valid, or has no rules.
    """
    entries, where = read_json("rules", file.strip()), f"--rules {file}"
    if not entries:
        raise InputError(f'{where}: has no rules; write {{"name": {{"check": ...}}}}')
    return tuple(_read_rule(name, entry, where) for name, entry in entries.items())


def _read_rule(name: str, entry: Any, where: str) -> Rule:
    """One rule of a file."""
    if not NAME.fullmatch(name):
        raise InputError(f"{where}: a rule is named {quote(name)}; use only lower-case letters, digits and _")
    check = CHECKS.get(entry.get("check")) if isinstance(entry, Mapping) and isinstance(entry.get("check"), str) else None
    if check is None:
        raise InputError(f"{where}: rule {name} is {quote(entry)}; write an object whose `check` is one of {listed(CHECKS)}")
    keys = {"check", check.needs} - {""}
    if unknown := sorted(set(entry) - keys):
        raise InputError(f"{where}: rule {name}: {entry['check']} does not use {quote(unknown[0])}; leave it out")
    value = entry.get(check.needs)
    if check.needs and not check.fits(value):
        raise InputError(f"{where}: rule {name}: `{check.needs}` is {quote(value)}; write {check.wanted}")
    return Rule(name, entry["check"], value)


def put_rules(rows: Sequence[dict[str, Any]], cells: Iterable[Any], rules: Sequence[Rule], where: str, first: int) -> None:
    """Give each row the names of the rules that apply to its answer.

    Args:
        cells: for each row, a list of names, or a comma-separated text; None, NaN or empty for all rules.
        first: the number of the first row in messages.

    Raises:
        InputError: a cell names an unknown rule.
    """
    known = [rule.name for rule in rules]
    for number, (row, cell) in enumerate(zip(rows, cells, strict=True), first):
        names = [name.strip() for name in cell.split(",") if name.strip()] if isinstance(cell, str) else cell
        if names is None or names != names or names == []:
            names = known
        if not (isinstance(names, list) and all(name in known for name in names)):
            raise InputError(f"{where}: column {COLUMN} of row {number} is {quote(cell)}; use names from {listed(known)}")
        row[COLUMN] = tuple(name for name in known if name in names)
