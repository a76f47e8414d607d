"""What tells settings of runs apart, and which runs are repetitions of each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

OWN_COLUMNS = ("num_shots", "task_name", "task_variant", "model_name_or_path", "seed", "data_seed")
"""Arguments that a column of the tables tells."""
LETTERS = 6
"""How many letters of a setting's hash name it where nothing else does."""
Rows = Sequence[Mapping[str, Any]]


def repetitions(rows: Rows) -> tuple[list[Mapping[str, Any]], list[tuple[str, str]]]:
    """The runs that count, and those that say what another one says, with the reason.

    Runs of one setting differ in their seeds, or are of students that do. In-context learning draws nothing by `--seed`: there
    its data seed alone counts.
    """
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    kept, again = [], []
    for row in rows:
        draws = () if row["method"] == "icl" else (row["seed"],)
        key = (*(row[name] for name in ("method", "task", "model", "setting", "data_seed")), *draws, row["identity"].weights)
        other = first.setdefault(key, row)
        if other is row:
            kept.append(row)
        elif other["seed"] == row["seed"]:
            again.append((row["record"], f"the same run as {other['record']}"))
        else:
            again.append((row["record"], f"the same answers as {other['record']}: in-context learning does not depend on --seed"))
    return kept, again


def name_differences(rows: Rows) -> tuple[list[dict[str, Any]], list[str]]:
    """Name what settings differ in that their columns do not tell.

    Returns:
        The rows, with `given` as text, and with `differs`: the arguments that not all settings of the task and method share, so
        that rows of one name are alike over models, shots and patterns too. Where settings differ in what is no argument
        (devices, files), the beginning of their hash is told. And a sentence for each set of arguments that all settings of a
        method share. A kind of context that was asked for is always named: no number of shots tells an instruction from a label.
    """
    settings: dict[tuple[str, str], dict[str, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        own = settings[row["task"], row["method"]]
        if row["setting"] not in own:
            own[row["setting"]] = {k: f"{k}={v}" for k, v in row["given"].items() if k not in OWN_COLUMNS}
    shared = {key: set.intersection(*(set(given.values()) for given in own.values())) for key, own in settings.items()}
    texts = {
        (key, setting): ", ".join(text for name, text in given.items() if name == "context" or text not in shared[key])
        for key, own in settings.items()
        for setting, given in own.items()
    }
    named = [
        {
            **row,
            "given": ", ".join(settings[row["task"], row["method"]][row["setting"]].values()),
            "differs": texts[(row["task"], row["method"]), row["setting"]],
        }
        for row in rows
    ]
    return _told_apart(named), _shared(shared)


def _told_apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    columns = ("task", "method", "model", "shots", "pattern", "differs")
    names = [tuple(row[name] for name in columns) for row in rows]
    several = Counter(name for name, _ in {(name, row["setting"]) for name, row in zip(names, rows, strict=True)})
    for name, row in zip(names, rows, strict=True):
        if several[name] > 1:
            row["differs"] = ", ".join(filter(None, (row["differs"], f"setting {row['setting'][:LETTERS]}")))
    return rows


def _shared(shared: Mapping[tuple[str, str], set[str]]) -> list[str]:
    tasks: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (task, method), texts in shared.items():
        if told := tuple(sorted(text for text in texts if not text.startswith("context="))):
            tasks[method, told].append(task)
    return [f"All runs of {method} on {', '.join(own)}: {', '.join(told)}." for (method, told), own in tasks.items()]
