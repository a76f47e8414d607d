"""Determines which arguments distinguish settings, and which runs are repetitions of each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

IN_COLUMNS = ("num_shots", "task_name", "task_variant", "model_name_or_path", "seed", "data_seed")
"""Arguments whose values are in a column of the tables."""
ALWAYS_NAMED = ("context", "train_on=document")
"""Arguments, or values of them, that settings are named by even if all share them: the number of shots does not distinguish an
instruction from a label, and training on a document is not fine-tuning on rows."""
LETTERS = 6
"""Digits of a setting's hash that name it if nothing else does."""
RunRows = Sequence[Mapping[str, Any]]


def repetitions(rows: RunRows) -> tuple[list[Mapping[str, Any]], list[tuple[str, str]]]:
    """The runs that count, and those that repeat another one's numbers, with the reason.

    Runs of one setting differ in their seeds, or belong to students that do. In-context learning does not use `--seed`, so only
    its data seed counts.
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


def with_shots_of_settings(rows: RunRows) -> list[dict[str, Any]]:
    """The rows, with the same number of shots for all runs of a setting: their rounded mean, if the seed draws a task with more
    or fewer training rows. Otherwise runs that differ only in their seeds would not be in one group."""
    numbers: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    keys = [tuple(row[name] for name in ("task", "method", "model", "setting")) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        numbers[key].append(row["shots"])
    return [{**row, "shots": round(fmean(numbers[key]))} for key, row in zip(keys, rows, strict=True)]


def name_differences(rows: RunRows) -> tuple[list[dict[str, Any]], list[str]]:
    """Name the differences of settings that are not in columns.

    Returns:
        The rows, with `non_default` as text, and with `differs`: the arguments that not all settings of the task and method
        share, so that rows with the same name are alike across models, shots and patterns too. If settings differ in something
        other than arguments (devices, files), it is the beginning of their hash. And a sentence for each set of arguments that
        all settings of a method share, without those of `ALWAYS_NAMED`.
    """
    settings: dict[tuple[str, str], dict[str, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        of_method = settings[row["task"], row["method"]]
        if row["setting"] not in of_method:
            of_method[row["setting"]] = {k: f"{k}={v}" for k, v in row["non_default"].items() if k not in IN_COLUMNS}
    shared = {key: set.intersection(*map(_may_be_shared, of.values())) for key, of in settings.items()}
    named = []
    for row in rows:
        key = (row["task"], row["method"])
        texts = settings[key][row["setting"]]
        differs = ", ".join(text for text in texts.values() if text not in shared[key])
        named.append({**row, "non_default": ", ".join(texts.values()), "differs": differs})
    return _with_hashes(named), _sentences(shared)


def _may_be_shared(texts: Mapping[str, str]) -> set[str]:
    """The texts of arguments (given by name) that their setting need not be named by."""
    return {text for name, text in texts.items() if name not in ALWAYS_NAMED and text not in ALWAYS_NAMED}


def _with_hashes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the hash of their setting in `differs` if several settings have the same name."""
    columns = ("task", "method", "model", "shots", "pattern", "headline", "differs")
    names = [tuple(row[name] for name in columns) for row in rows]
    count = Counter(name for name, _ in {(name, row["setting"]) for name, row in zip(names, rows, strict=True)})
    for name, row in zip(names, rows, strict=True):
        if count[name] > 1:
            row["differs"] = ", ".join(filter(None, (row["differs"], f"setting {row['setting'][:LETTERS]}")))
    return rows


def _sentences(shared: Mapping[tuple[str, str], set[str]]) -> list[str]:
    tasks: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (task, method), texts in shared.items():
        if arguments := tuple(sorted(texts)):
            tasks[method, arguments].append(task)
    return [f"All runs of {method} on {', '.join(names)}: {', '.join(texts)}." for (method, texts), names in tasks.items()]
