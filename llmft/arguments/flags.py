"""A command-line flag as a field of a dataclass, with the rules for its values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UPSTREAM = "upstream's names"
"""Group of `--help` for flags that duplicate others."""

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Maximum bytes of a file or folder name, and of a path."""


@dataclass(frozen=True)
class Rules:
    """Which values a flag accepts, and what role it plays in a run. `llmft.arguments.checks` enforces them on all values except
    the default.

    A condition is written as on the command line: `--use_adapter --adapter_type lora|parallel` (both flags, the second with one
    of two values), `--num_contexts 2+` (2 or more), `--deepspeed` (any value, or switched on). A comma-separated flag matches
    each of its values.

    Attributes:
        needs: conditions of which one must hold for the flag to have an effect. Conditions on flags that a script does not have
            are ignored.
        excludes: condition that the flag cannot be combined with -> the reason, for the message.
        exempt: values to which `excludes` does not apply.
        at_least, above, below: limits of a number.
        or_value: a number outside the limits that has a special meaning.
        hint: text that the message adds after the limits.
        supported: whether values other than the default are supported.
        may_be_empty: whether a text may be empty.
        kind: `value`; `path` of a file or folder whose content matters (or the name of a model on the hub); `folder` for
            storage; `text or path`; `json`, an object or a file with one; `steps`, a number of steps, or a fraction of all
            steps if below 1; `secret`.
        names_run: whether the value is part of a run's name; default: depends on the kind. A value that is not part of it
            either changes no result, or `pipelines.run_identity` adds its content to the name.
        evaluation: what eval.py does with it: `read`, `ignored` (upstream's sweeps pass it), or `refused`.
        answers: the kind of answers (`Task.answer`) that the flag is for; None for any.
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
        choices: the allowed values.
        aliases: other names of the flag.
        group: its group in `--help`, if it differs from its dataclass's.
        rules: fields of `Rules`; a single condition may be given as a string, an exclusion then has no reason in its message.
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
    """The flags of a dataclass: name -> its field and rules. The rules of fields inherited from a library are in its table
    `INHERITED`."""
    inherited = getattr(group, "INHERITED", {})
    return {
        f.name: (f, f.metadata.get("rules") or inherited.get(f.name) or inherited.get("") or Rules())
        for f in dataclasses.fields(group)
        if f.init
    }


def paths_named(groups: Sequence[type], values: Mapping[str, Any]) -> list[str]:
    """All files or folders whose content matters, and all models on the hub, that the values of flags name."""
    names: dict[str, None] = {}
    for group in groups:
        for name, (_, rules) in flags_of(group).items():
            value = values.get(name)
            if rules.kind in ("path", "text or path", "json") and isinstance(value, str):
                names |= dict.fromkeys(part for part in (value, *map(str.strip, value.split(","))) if may_be_path(part))
    return list(names)


def may_be_path(text: str) -> bool:
    """Whether a text can be a path; the system would raise an error for one that is too long."""
    sizes = [len(os.fsencode(part)) for part in text.split("/")]
    return bool(text) and "\0" not in text and max(sizes) <= LONGEST_NAME and sum(sizes) + len(sizes) <= LONGEST_PATH


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default value of a flag."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
