"""Determines which models and data sets of several records are the same, and gives different ones distinct names.

Every mean, test, line and break-even in a report belongs to one `task` and one `model`; so these columns must not use the same
name for two things. A path is named by its last part if that is unique, else with as many parent folders as needed, else with
a hash.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmft.runs.store import short_hash

LETTERS = 6
"""Digits of a hash that distinguish things with the same name."""
TRAINED_ON = {"train_file", "query_file"}
"""Files that runs compared on the same evaluation rows may learn from: they distinguish settings, not data sets."""
ENDING = re.compile(r"\.(parquet|jsonl|json|csv|tsv|txt)$")
"""The ending of a file of rows."""
HUB = "hub"
"""The recorded content of a hub data set, whose real content is unknown."""


class Known(NamedTuple):
    """A model or file as described in one record.

    Args:
        short: its name if that is unique.
        path: its full name or path.
        argument: its name on the command line.
        content: hash of its content; None in older records.
    """

    short: str
    path: str
    argument: str
    content: str | None = None


class Identity(NamedTuple):
    """A record's model, teacher (None: the student before training) and data (keys of `data_fingerprints`)."""

    model: Known
    teacher: Known | None
    data: dict[str, Known]
    weights: str | None
    """Hash of this particular model: students of one setting share `model.content`."""


def identity(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> Identity:
    """The identity of the record with this `config.json` and these `arguments`."""
    model = _model(config, arguments, "model", config["model"])
    weights = model.content
    if student := config.get("student"):  # students of one setting count as one, like their runs
        setting = student["setting"]
        model = model._replace(path=f"setting {setting[:LETTERS]}", content=f"student {setting}")
    teacher = config["given"].get("teacher")
    teacher = teacher and _model(config, arguments, "teacher_model", teacher)
    return Identity(model, teacher, data_of(config, arguments), weights)


def data_of(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Known]:
    """The files that a run's data were read from, by their flags, or by their paths under `--data_dir` without endings."""
    files = {}
    for key, content in config.get("data_fingerprints", {}).items():
        if content != HUB:
            made = content.startswith("version ")  # rows that are not from a file
            path = arguments.get(key) or arguments.get("data_dir") or ""
            path = content if made else os.path.normpath(os.path.join(config.get("folder", ""), path))
            name = ENDING.sub("", key)
            files[name] = Known(Path(path).name or path, path, path, content)
    return files


def _model(config: Mapping[str, Any], arguments: Mapping[str, Any], which: str, short: str) -> Known:
    """The model of `--<which>_name_or_path`."""
    argument = os.path.normpath(arguments.get(f"{which}_name_or_path") or short)
    fingerprint = config.get("fingerprints", {}).get(which, {})
    tail = f"/{arguments['gguf_file']}" if which == "model" and arguments.get("gguf_file") else ""
    revision = arguments.get(f"{which}_revision") or "main"
    tail += "" if revision == "main" else f"@{revision}"
    return Known(short, fingerprint.get("path", argument) + tail, argument + tail, fingerprint.get("content"))


def shortest_names(things: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Distinct names of `things` (unique key -> short name and path): the short name if it is unique, then with as many folders
    of the path as needed, then with a hash."""
    names = {place: place[0] for place in things.values()}
    for depth in range(1, 1 + max((len(Path(path).parts) for _, path in names), default=0)):
        count = Counter(names.values())
        names = {place: _longer(*place, depth) if count[name] > 1 else name for place, name in names.items()}
    count = Counter(names[place] for place in things.values())
    return {
        key: names[place] + (f" ({short_hash(key)[:LETTERS]})" if count[names[place]] > 1 else "")
        for key, place in things.items()
    }


def _longer(short: str, path: str, depth: int) -> str:
    """The name with the last folders; they come after it if the name is not the end of the path (a run's student)."""
    parts = Path(path).parts
    if parts[-1:] == (short,):
        return "/".join(parts[-depth - 1 :]).replace("//", "/")
    parts = parts[:-1] if parts[-1:] == ("model",) else parts
    return f"{short} ({'/'.join(parts[-depth:])})".replace("//", "/")


def with_distinct_names(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of runs, with `identity`, in which different tasks, models, teachers and training files have different names."""
    models = _names([row["identity"].model for row in rows])
    teachers = _names([row["identity"].teacher for row in rows if row["identity"].teacher])
    of_task: dict[str, list[dict[str, Known]]] = defaultdict(list)
    for row in rows:
        of_task[row["task"]].append(row["identity"].data)
    apart = {task: differing(data) for task, data in of_task.items()}
    data_names = {task: _data_names(data, apart[task]) for task, data in of_task.items()}
    named = []
    for row in rows:
        task, thing = row["task"], row["identity"]
        non_default, sets = dict(row["non_default"]), []
        for _, contents in _by_path(thing.data, apart[task]):
            name = data_names[task][repr(contents)]
            if contents.keys() <= TRAINED_ON:
                non_default |= dict.fromkeys(contents, name)
            else:
                sets.append(name)
        if thing.teacher:
            non_default["teacher"] = teachers[thing.teacher]
        title = f"{task} ({', '.join(dict.fromkeys(sets))})" if sets else task
        named.append({**row, "task": title, "model": models[thing.model], "non_default": non_default})
    return named


def _names(things: Iterable[Known]) -> dict[Known, str]:
    """The name of each; one with unknown content is identified with the known one at its path if there is only one."""
    things = sorted(things, key=lambda one: one.content is None)
    contents: dict[str, set[str]] = defaultdict(set)
    for one in things:
        if one.content is not None:
            contents[one.argument].add(one.content)
    keys = {}
    for one in things:
        same = contents[one.argument]
        keys[one] = one.content or (min(same) if len(same) == 1 else one.argument)
    places: dict[str, tuple[str, str]] = {}
    for one, key in keys.items():
        places.setdefault(key, (one.short, one.path))
    names = shortest_names(places)
    return {one: names[key] for one, key in keys.items()}


def differing(data: Sequence[Mapping[str, Known]]) -> set[str]:
    """The names of data that have different contents in different records."""
    contents: dict[str, set[str | None]] = defaultdict(set)
    for files in data:
        for name, file in files.items():
            contents[name].add(file.content)
    return {name for name, several in contents.items() if len(several) > 1}


def _data_names(data: Sequence[Mapping[str, Known]], apart: Container[str]) -> dict[str, str]:
    """Names of the data that differ; those of one folder count as one."""
    things: dict[str, tuple[str, str]] = {}
    for files in data:
        for path, contents in _by_path(files, apart):
            things.setdefault(repr(contents), (Path(path).name or path, path))
    return shortest_names(things)


def _by_path(files: Mapping[str, Known], apart: Container[str]) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Path and contents of those of one record's data that are in `apart`."""
    chosen = {name: file for name, file in sorted(files.items()) if name in apart}
    for path in dict.fromkeys(file.path for file in chosen.values()):
        yield path, {name: file.content for name, file in chosen.items() if file.path == path}
