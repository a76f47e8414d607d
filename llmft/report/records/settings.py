"""Which arguments tell settings apart, and which runs are repetitions of each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

IN_COLUMNS = ("num_shots", "task_name", "task_variant", "model_name_or_path", "seed", "data_seed")
"""Arguments whose values a column of the tables has."""
ALWAYS_NAMED = ("context", "train_on=document")
"""Arguments, or values of them, by which settings are named even if all share them: no number of shots tells an instruction from
a label, and training on a document is no fine-tuning on rows."""
LETTERS = 6
"""How many letters of a setting's hash name it where nothing else does."""
RunRows = Sequence[Mapping[str, Any]]


def repetitions(rows: RunRows) -> tuple[list[Mapping[str, Any]], list[tuple[str, str]]]:
    """The runs that count, and those that repeat another one's numbers, with the reason.

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


def with_shots_of_settings(rows: RunRows) -> list[dict[str, Any]]:
    """The rows, with one number of shots for all runs of a setting: their mean, rounded, where the seed draws a task with more or
    fewer training rows. Runs that differ only in their seeds would not be one group else."""
    numbers: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    keys = [tuple(row[name] for name in ("task", "method", "model", "setting")) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        numbers[key].append(row["shots"])
    return [{**row, "shots": round(fmean(numbers[key]))} for key, row in zip(keys, rows, strict=True)]


def name_differences(rows: RunRows) -> tuple[list[dict[str, Any]], list[str]]:
    """Name what settings differ in beside their columns.

    Returns:
        The rows, with `non_default` as text, and with `differs`: the arguments that not all settings of the task and method
        share, so that rows of one name are alike over models, shots and patterns too. Where settings differ in what is no
        argument (devices, files), it is the beginning of their hash. And a sentence for each set of arguments that all settings
        of a method share. Those of `ALWAYS_NAMED` are in no sentence.
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
    """The texts of arguments, by the arguments' names, that need not name their setting."""
    return {text for name, text in texts.items() if name not in ALWAYS_NAMED and text not in ALWAYS_NAMED}


def _with_hashes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the hash of their setting in `differs` where several settings have one name."""
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
