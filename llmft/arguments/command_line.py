"""From the command line to argument groups: old names of arguments, one-line errors, help."""

from __future__ import annotations

import copy
import difflib
import sys
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from functools import cached_property
from typing import Any, NoReturn

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from llmft.arguments.checks import check, in_words, known
from llmft.arguments.flags import UPSTREAM, Rules, flags_of
from llmft.arguments.methods import AdapterArguments
from llmft.errors import InputError
from llmft.runs.notes import say_note

RENAMED = {
    "--evaluation_strategy": "--eval_strategy",
    "--no_cuda": "--use_cpu",
    "--warmup_ratio": "--warmup_steps",  # a value below 1 is a fraction of all steps
}
"""Arguments that transformers has renamed since upstream's sweeps were written."""

OBSOLETE = {
    "--overwrite_cache": "preprocessed data sets are never cached on disk",
    "--pad_to_max_length": "prompts are never padded to a maximum length",
    "--use_fast_tokenizer": "transformers chooses the type of tokenizer",
    "--use_auth_token": "the hub library uses its own login",
    "--disable_wandb": "nothing is logged to wandb unless --report_to says so",
}
"""Upstream arguments that ask for what is always done here; they are removed from the command line with a note."""

ONE_AFTER_THE_OTHER = (
    "one context after the other is two commands: distill.py --context_file A ..., then distill.py --context_file B "
    "--model_name_or_path RUN/model --teacher_model_name_or_path ORIGINAL ..., or without that teacher if the first student "
    "teaches"
)
REMOVED = {"--stage_teacher": ONE_AFTER_THE_OTHER, "--context_schedule sequential": ONE_AFTER_THE_OTHER}
"""Arguments that were removed, some only with a certain value, and what to use instead."""


class ShortHelp(ArgumentDefaultsHelpFormatter):
    """One name and the type of a flag, and its default only where that is a value and the text does not give it."""

    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]  # with hyphens they are accepted, too
        value = self._format_args(action, self._get_default_metavar_for_optional(action)) if action.nargs != 0 else ""
        return f"{', '.join(names)} {value}".rstrip()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return "bool" if action.type is string_to_bool else getattr(action.type, "__name__", "str")

    def _get_help_string(self, action: Action) -> str | None:
        text = action.help or ""
        default = action.default
        if action.nargs == 0 or default is None or default is False or default == "" or "default:" in text.lower():
            return text
        return f"{text} (default: {' '.join(default)})" if isinstance(default, list) else super()._get_help_string(action)


class OneLineParser(HfArgumentParser):
    """An argument parser whose errors are `InputError`s: one line, no usage text. Its help leaves out flags without a use."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=ShortHelp, **kwargs)
        self._action_groups.sort(key=lambda group: group.title == UPSTREAM)  # shown last

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        raise InputError(f"{message}; see --help")

    @cached_property
    def rules(self) -> dict[str, Rules]:
        """The rules of each flag, including inherited flags."""
        return {name: rules for group in self.dataclass_types for name, (_, rules) in flags_of(group).items()}

    @property
    def trains(self) -> bool:
        """Whether the script trains."""
        return AdapterArguments in self.dataclass_types

    def _parse_dataclass_field(self, parser: ArgumentParser, field: Field[Any]) -> None:
        """Add a flag to the group of its dataclass, or to the group in its metadata, and say in its help what it requires."""
        metadata = dict(field.metadata)
        metadata.pop("rules", None)
        title = metadata.pop("group", None)
        if title is not None:
            groups = {group.title: group for group in self._action_groups}
            parser = groups.get(title) or self.add_argument_group(title)
        rules = self.rules[field.name]
        if needs := known(rules.needs, self.rules):
            metadata["help"] = f"{metadata.get('help', '')} Only with {in_words(needs)}."
        of_use = rules.supported and (rules.evaluation == "read" or self.trains)
        if not of_use:
            metadata["help"] = SUPPRESS
        flag = copy.copy(field)
        flag.metadata = metadata
        super()._parse_dataclass_field(parser, flag)
        if of_use and (opposite := self._option_string_actions.get(f"--no_{field.name}")) is not None:
            opposite.help = f"Turns --{field.name} off."


def read(
    groups: Sequence[type],
    argv: Sequence[str] | None,
    description: str,
    more_defaults: Callable[[Mapping[str, Any], Collection[str]], tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the command line.

    Args:
        more_defaults: takes the values and the names of the arguments on the command line; returns the defaults that depend on
            them, and the values of other arguments that they imply.

    Returns:
        The value of each argument, and the values that differ from the default.

    Raises:
        InputError: an argument is unknown or given twice, or its value has the wrong type or is invalid.
    """
    words = modern(sys.argv[1:] if argv is None else argv)
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:  # Python keeps other bytes as lone surrogates, which cannot be encoded
            raise InputError(f"{word!a}: is not UTF-8; use that encoding") from error
    parser = OneLineParser(list(groups), description=description, usage="%(prog)s [--argument value ...]", allow_abbrev=False)
    with _in_one_line():
        namespace, unknown = parser.parse_known_args(words)
    if unknown:
        names = [name for action in parser._actions for name in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], names, n=1, cutoff=0.8)
        name = unknown[0].split("=")[0] if unknown[0].startswith("--") else unknown[0]  # a value may be a secret
        raise InputError(f"{name}: no such argument; " + (f"did you mean {near[0]}?" if near else "see --help"))
    written, values = written_arguments(parser, words), vars(namespace)
    defaults = {name: parser.get_default(name) for name in values}
    if more_defaults is not None:
        more, implied = more_defaults(values, written)
        defaults |= {name: value for name, value in more.items() if name in values}
        values |= {name: value for name, value in (defaults | dict(implied)).items() if name in values and name not in written}
    given = {name: value for name, value in values.items() if value != defaults[name]}
    check(groups, values, all_groups=True, trains=parser.trains)
    return values, given


def make(groups: Sequence[type], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """One instance of each group, built from the arguments' values.

    Raises:
        InputError: an argument is out of range, or arguments contradict each other.
    """
    with _in_one_line():
        return tuple(group(**{f.name: values[f.name] for f in fields(group) if f.init and f.name in values}) for group in groups)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Context: errors that transformers raises when it checks TrainingArguments become `InputError`s."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, ImportError) as error:
        raise InputError(f"the arguments contradict each other: {' '.join(str(error).split())}; see --help") from error


def modern(argv: Sequence[str]) -> list[str]:
    """The command line with old names replaced and obsolete arguments (and their values, if any) removed, with a note.

    Raises:
        InputError: an argument is one of `REMOVED`.
    """
    words: list[str] = []
    rest = list(argv)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        argument = f"{name} {value if equals else ''.join(rest[:1])}".strip()
        remedy = REMOVED.get(name) or REMOVED.get(argument)
        if remedy is not None:
            raise InputError(f"{argument}: {remedy}")
        if name in OBSOLETE:
            if not equals and rest and not rest[0].startswith("--"):
                rest.pop(0)
            say_note(f"{name} is not needed: {OBSOLETE[name]}")
        else:
            words.append(RENAMED.get(name, name) + equals + value)
    return words


def written_arguments(parser: HfArgumentParser, words: Sequence[str]) -> Collection[str]:
    """The names of the arguments on the command line.

    Raises:
        InputError: one is given twice, under the same name or an alias: all but one value would be silently ignored.
    """
    seen: dict[str, str] = {}
    for word in words:
        name = word.split("=")[0]
        action = parser._option_string_actions.get(name)
        if action is None:
            continue
        if action.dest in seen:
            raise InputError(f"{name}: given twice (earlier as {seen[action.dest]}); drop one of them")
        seen[action.dest] = name
    return seen
