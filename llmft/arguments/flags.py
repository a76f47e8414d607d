"""A command-line flag as a field of a dataclass, with the rules that the flag keeps."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UPSTREAM = "upstream's names"
"""Group of `--help` for flags that only say what others say, too."""

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of a file's or folder's name, and of a path, that systems take."""


@dataclass(frozen=True)
class Rules:
    """What a flag's value may be, and what the flag is to a run. `llmft.arguments.checks` enforces them on all values but the
    default.

    A condition is written as on the command line: `--use_adapter --adapter_type lora|parallel` (both flags, the second with one
    of two values), `--num_contexts 2+` (2 or more), `--deepspeed` (any value, or on). A flag that takes several values, comma
    between, has each of them.

    Attributes:
        needs: the flag is read only under this condition, or under one of several. A condition on a flag that a script does not
            have does not count there.
        excludes: condition that the flag does not go with -> why not, for the message.
        exempt: values that go with all of these.
        at_least, above, below: limits of a number.
        or_value: a number outside of the limits that has a meaning of its own.
        hint: what the message says behind the limits.
        supported: whether another value than the default is.
        may_be_empty: whether a text may be.
        kind: `value`; `path` of a file or folder whose content matters (or the name of a model on the hub); `folder` where things
            are kept; `text or path`; `json`, an object or the file of one; `steps`, a number of steps, or a share of all below
            1; `secret`.
        names_run: whether the value is part of a run's name; default: by the kind. What is not either changes no result, or
            `pipelines.run_identity` puts the content in the name.
        evaluation: what eval.py does with it: `read`, `ignored` (upstream's sweeps pass it), or `refused`.
        answers: the kind of answers (`Task.answer`) that it is about; None for any.
    """

    needs: tuple[str, ...] = ()
    excludes: Mapping[str, str] = field(default_factory=dict)
    exempt: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    or_value: float | None = None
    hint: str = ""
    supported: bool = True
    may_be_empty: bool = False
    kind: str = "value"
    names_run: bool | None = None
    evaluation: str = "read"
    answers: str | None = None

    @property
    def in_name(self) -> bool:
        """Whether the value is part of a run's name."""
        return self.kind in ("value", "json", "steps") if self.names_run is None else self.names_run


def flag(
    text: str, default: Any = None, *, choices: Any = None, aliases: tuple[str, ...] = (), group: str | None = None, **rules: Any
) -> Any:
    """A field with a help text and a default.

    Args:
        choices: all values that it may have.
        aliases: other names of the flag.
        group: its group in `--help`, where that is not its dataclass's.
        rules: fields of `Rules`; a single condition may be given as text, excluded for a reason that is plain.
    """
    if isinstance(rules.get("needs"), str):
        rules["needs"] = (rules["needs"],)
    if isinstance(rules.get("excludes"), str):
        rules["excludes"] = {rules["excludes"]: ""}
    parser = {"help": text} | ({"choices": list(choices)} if choices else {}) | ({"aliases": list(aliases)} if aliases else {})
    metadata = {**parser, "group": group, "rules": Rules(**rules)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def flags_of(group: type) -> dict[str, tuple[dataclasses.Field[Any], Rules]]:
    """The flags of a dataclass: name -> its field and rules. Those of fields that it inherits from a library stand in its table
    `INHERITED`."""
    inherited = getattr(group, "INHERITED", {})
    return {
        f.name: (f, f.metadata.get("rules") or inherited.get(f.name) or inherited.get("") or Rules())
        for f in dataclasses.fields(group)
        if f.init
    }


def paths_named(groups: Sequence[type], values: Mapping[str, Any]) -> list[str]:
    """Whatever the values of flags name as files or folders whose content matters, or as models on the hub."""
    names: dict[str, None] = {}
    for group in groups:
        for name, (_, rules) in flags_of(group).items():
            value = values.get(name)
            if rules.kind in ("path", "text or path", "json") and isinstance(value, str):
                names |= dict.fromkeys(part for part in (value, *map(str.strip, value.split(","))) if may_be_path(part))
    return list(names)


def may_be_path(text: str) -> bool:
    """Whether a system takes a text as a path; it would refuse to look at a long one."""
    sizes = [len(os.fsencode(part)) for part in text.split("/")]
    return bool(text) and "\0" not in text and max(sizes) <= LONGEST_NAME and sum(sizes) + len(sizes) <= LONGEST_PATH


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The value of a flag that is not given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
