"""Rules for answers in words that a program can check: a file of them, and whether an answer keeps one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmft.arguments.checks import read_json
from llmft.errors import InputError, listed, quote

NAME = re.compile("[a-z0-9_]+")
"""What a rule may be called: metrics and columns bear its name."""
COLUMN = "rules"
"""The column, in files of requests, of the names of the rules that hold for a row; all rules, where it is not there or empty."""


@dataclass(frozen=True)
class Rule:
    """A rule by its name.

    Attributes:
        check: a key of `CHECKS`.
        value: what is checked for; None for a check that needs nothing.
    """

    name: str
    check: str
    value: Any = None

    def kept(self, answer: str) -> bool:
        """Whether an answer, without the white space around it, keeps the rule."""
        return CHECKS[self.check].kept(answer.strip(), self.value)

    def as_text(self) -> str:
        """The rule as one text, for `from_text`."""
        return json.dumps([self.name, self.check, self.value])

    @classmethod
    def from_text(cls, text: str) -> Rule:
        """The rule that `as_text` wrote."""
        return cls(*json.loads(text))


@dataclass(frozen=True)
class RuleCheck:
    """A way of checking answers.

    Attributes:
        kept: of an answer and a rule's value, whether it is kept.
        needs: what the value is called in a file of rules; "" for none.
        fits: whether a value is one.
        wanted: what it must be, for messages.
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
    "lower_case": RuleCheck(lambda answer, _: answer.islower()),
    "matches": RuleCheck(
        lambda answer, pattern: bool(re.search(pattern, answer)), "pattern", _is_pattern, "a regular expression"
    ),
}
"""The ways of checking by their names."""


def read_rules(file: str) -> tuple[Rule, ...]:
    """The rules of `--rules`: a JSON object, name -> {"check": ..., and what that needs}, or the file of one.

    Raises:
        InputError: it is nothing of the kind, or has no rule.
    """
    entries, where = read_json("rules", file), f"--rules {file}"
    if not entries:
        raise InputError(f'{where}: holds no rule; write {{"name": {{"check": ...}}}}')
    return tuple(_read_rule(name, entry, where) for name, entry in entries.items())


def _read_rule(name: str, entry: Any, where: str) -> Rule:
    """A rule of a file."""
    if not NAME.fullmatch(name):
        raise InputError(f"{where}: a rule is called {quote(name)}; write lower case letters, digits and _ alone")
    check = CHECKS.get(entry.get("check")) if isinstance(entry, Mapping) and isinstance(entry.get("check"), str) else None
    if check is None:
        raise InputError(f"{where}: rule {name} is {quote(entry)}; write an object whose `check` is one of {listed(CHECKS)}")
    keys = {"check", check.needs} - {""}
    if unknown := sorted(set(entry) - keys):
        raise InputError(f"{where}: rule {name}: {entry['check']} does not read {quote(unknown[0])}; leave it out")
    value = entry.get(check.needs)
    if check.needs and not check.fits(value):
        raise InputError(f"{where}: rule {name}: `{check.needs}` is {quote(value)}; write {check.wanted}")
    return Rule(name, entry["check"], value)


def put_rules(rows: Sequence[dict[str, Any]], cells: Iterable[Any], rules: Sequence[Rule], where: str, first: int) -> None:
    """Give each row the names of the rules that hold for its answer.

    Args:
        cells: of each row a list of names, or a text with commas between; None, NaN, or no name in it for all.
        first: the number of the first row in messages.

    Raises:
        InputError: a cell names a rule that there is not.
    """
    known = [rule.name for rule in rules]
    for number, (row, cell) in enumerate(zip(rows, cells, strict=True), first):
        names = [name.strip() for name in cell.split(",") if name.strip()] if isinstance(cell, str) else cell
        if names is None or names != names or names == []:
            names = known
        if not (isinstance(names, list) and all(name in known for name in names)):
            raise InputError(f"{where}: column {COLUMN} of row {number} is {quote(cell)}; name some of {listed(known)}")
        row[COLUMN] = tuple(name for name in known if name in names)
