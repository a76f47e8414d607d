"""Checks all flags against the rules that each flag declares (`llmft.arguments.flags`)."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmft.arguments.encodings import check_names, decode
from llmft.arguments.flags import Rules, default_of, flags_of, may_be_path
from llmft.errors import InputError, quote

LIMITS = {"at_least": ("{} or more", operator.ge), "above": ("above {}", operator.gt), "below": ("below {}", operator.lt)}
CONDITION = re.compile(r"--(\w+)(?: ([^-\s]\S*))?")
SHORT = {"task_name": "task"}
"""Field -> the name of its flag in messages and docs, where the field has upstream's longer one."""
FIELDS = {short: field for field, short in SHORT.items()}


def check(groups: Sequence[type], values: Mapping[str, Any], *, all_groups: bool = False, trains: bool = True) -> None:
    """Check all values that are not the default.

    Args:
        groups: dataclasses of flags.
        values: the value of each flag.
        all_groups: whether these are all the flags of the script. If not, a flag passes if one in another group may make it
            take effect.
        trains: whether the script trains; eval.py, which does not, refuses some flags.

    Raises:
        InputError: a value is out of range or would have no effect, or flags contradict each other.
    """
    for group in groups:
        for name, (field, rules) in flags_of(group).items():
            value = values.get(name)
            if value is None or value == default_of(field):
                continue
            shown = f"--{SHORT.get(name, name)} {_shown(value, rules)}"
            if not rules.supported:
                raise InputError(f"{shown}: not supported; leave it at {default_of(field)}")
            if rules.evaluation == "refused" and not trains:
                raise InputError(f"{shown}: eval.py does not train; leave it out")
            _check_value(name, value, shown, field, rules)
            _check_others(name, shown, rules, values, all_groups=all_groups)


class Checked:
    """A dataclass of flags that checks its values when it is created."""

    def __post_init__(self) -> None:
        check([type(self)], vars(self))


def _shown(value: Any, rules: Rules) -> str:
    if rules.kind == "secret":
        return "***"
    return quote(value) if isinstance(value, str) and (not value.strip() or len(value) > 100) else str(value)


def _check_value(name: str, value: Any, shown: str, field: dataclasses.Field[Any], rules: Rules) -> None:
    if isinstance(value, str):
        _check_text(name, value, shown, rules)
    choices = field.metadata.get("choices", ())
    if choices and value not in choices:
        raise InputError(f"{shown}: unknown; choose one of {', '.join(map(str, choices))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{shown}: must be a finite number")
    for limit, (_, inside) in LIMITS.items() if isinstance(value, int | float) and value != rules.or_value else ():
        bound = getattr(rules, limit)
        if bound is not None and not inside(value, bound):
            raise InputError(f"{shown}: must be {limits(rules)}")
    if rules.kind == "steps" and (value <= 0 or (value > 1 and value != int(value))):
        raise InputError(f"{shown}: must be a whole number of steps, or a fraction of all steps between 0 and 1")


def _check_text(name: str, value: str, shown: str, rules: Rules) -> None:
    if not value.strip() and not rules.may_be_empty:
        raise InputError(f"{shown}: is empty; give a value, or leave it out")
    if rules.kind in ("path", "folder", "json") and not value.startswith("{") and not may_be_path(value.replace(",", "/")):
        raise InputError(f"--{name} {value[:60]}...: is too long for a path; use a shorter one")
    if rules.kind == "json":
        read_json(name, value)


def limits(rules: Rules) -> str:
    """The limits of a number, worded for a message."""
    parts = ((phrase, getattr(rules, name)) for name, (phrase, _) in LIMITS.items())
    return " and ".join(phrase.format(limit) for phrase, limit in parts if limit is not None) + rules.hint


def _check_others(name: str, shown: str, rules: Rules, values: Mapping[str, Any], *, all_groups: bool) -> None:
    needs = known(rules.needs, values)
    if needs and not any(holds(condition, values) for condition in needs) and (all_groups or len(needs) == len(rules.needs)):
        raise InputError(f"{shown}: has no effect without {in_words(needs)}; add it, or drop this flag")
    for condition in known(rules.excludes, values) if values[name] not in rules.exempt else ():
        if condition != f"--{name}" and holds(condition, values):
            reason = rules.excludes[condition] and f" ({rules.excludes[condition]})"
            raise InputError(f"{shown}: cannot be combined with {in_words([condition])}{reason}; drop one of them")


def known(conditions: Iterable[str], flags: Container[str]) -> list[str]:
    """The conditions of `Rules` whose flags all exist."""
    return [condition for condition in conditions if all(field in flags for field, _ in parts_of(condition))]


def holds(condition: str, values: Mapping[str, Any]) -> bool:
    """Whether a condition of `Rules` holds."""
    return all(_is(values[field], wanted) for field, wanted in parts_of(condition))


def parts_of(condition: str) -> list[tuple[str, str]]:
    """The fields of a condition of `Rules`, and the values that it wants them to have ('' for any)."""
    return [(FIELDS.get(flag, flag), wanted) for flag, wanted in CONDITION.findall(condition)]


def _is(value: Any, wanted: str) -> bool:
    if not wanted:
        return bool(value)
    if wanted.endswith("+"):
        return value >= int(wanted[:-1])
    return any(part.strip() in wanted.split("|") for part in str(getattr(value, "value", value)).split(","))


def in_words(conditions: Iterable[str]) -> str:
    """Alternative conditions, worded for a message."""
    text = " or ".join(conditions).replace("+", " or more")
    return re.sub(r"\|(?=[^ ]*\|)", ", ", text).replace("|", " or ")


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these entries. For json's `object_pairs_hook`, whose default keeps the last of several entries.

    Raises:
        ValueError: two have the same name.
    """
    check_names([name for name, _ in pairs], "entries")
    return dict(pairs)


def read_json(name: str, value: str) -> dict[str, Any]:
    """The JSON object given as a flag's value, or in the file that the value names.

    Raises:
        InputError: the file cannot be read, or holds no JSON object.
    """
    text = value
    if not value.startswith("{"):
        if not (may_be_path(value) and Path(value).is_file()):
            raise InputError(f"--{name} {_shown(value, Rules())}: no such file; name a JSON file")
        try:
            text = decode(Path(value).read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"--{name} {value}: cannot be read ({error}); name a JSON file") from error
    try:
        settings = json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--{name} {value}: is not JSON ({error}); fix it") from error
    if not isinstance(settings, dict):
        raise InputError(f"--{name} {value}: is not a JSON object; write {{...}}")
    return settings
