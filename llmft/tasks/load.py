"""Loading: every split of a task as rows of `text1, text2, label, idx` (and the columns its subsets are chosen by).

Local files under `--data_dir` win over the hub; compute nodes are often offline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError
from llmft.tasks.table import HANS, EvalSet, Row, Source, Task, get_task, hans_sets

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class TaskData:
    """The rows of a task. `demonstrations` is the pool shots are drawn from: `train` unless the task keeps one apart."""

    train: list[Row]
    demonstrations: list[Row]
    in_domain: dict[str, list[Row]]
    out_of_domain: dict[str, list[Row]]

    @property
    def eval_sets(self) -> dict[str, list[Row]]:
        """Set name -> rows, in-domain first."""
        return {**self.in_domain, **self.out_of_domain}


def load_task(task: Task, *, variant: str | None, data_seed: int, data_dir: str | None, cache_dir: str | None) -> TaskData:
    """Load all splits of `task`.

    Args:
        variant: which variant of a task that has several (`toy`), else None.
        data_seed: chooses the variant where none is given.
        data_dir: folder with local files, or None for the hub.
        cache_dir: cache of hub data sets.

    Raises:
        InputError: a file or a column is missing, a label is out of range, or the hub cannot be reached.
    """
    if variant and not task.has_variants:
        raise InputError(f"--task_variant {variant}: task {task.name} has no variants; leave the flag out")
    if task.splits is not None:
        splits = task.splits(variant, data_seed)
        train, validation = splits.pop("train"), splits.pop("validation")
        demonstrations = splits.pop("demonstrations", train)
        out_of_domain = {f"{task.name}-{name}": rows for name, rows in splits.items()}
        return TaskData(train, demonstrations, {task.name: validation}, out_of_domain)
    frames: dict[Source, pd.DataFrame] = {}

    def rows(eval_set: EvalSet) -> list[Row]:
        if eval_set.source not in frames:
            frames[eval_set.source] = _read_source(eval_set.source, data_dir, cache_dir)
        return _normalise(frames[eval_set.source], eval_set, task)

    train = rows(task.train)
    return TaskData(train, train, {task.in_domain.name: rows(task.in_domain)}, {s.name: rows(s) for s in task.out_of_domain})


def load_glue_datasets(task_name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Mapping[str, list[Row]]:
    """Upstream's name for loading a GLUE task: `{"train": rows, "validation": rows}`."""
    task = get_task(task_name)
    data = load_task(task, variant=None, data_seed=0, data_dir=data_dir, cache_dir=cache_dir)
    return {"train": data.train, "validation": data.in_domain[task.name]}


def load_hans_dataset(
    heuristic: str = "lexical_overlap", data_dir: str | None = None, cache_dir: str | None = None
) -> dict[str, list[Row]]:
    """Upstream's name for loading HANS: the rows of one heuristic, as `entailment` and `non-entailment`."""
    frame = _read_source(HANS, data_dir, cache_dir)
    sets = zip(("entailment", "non-entailment"), hans_sets(heuristic), strict=True)
    return {label: _normalise(frame, eval_set, get_task("rte")) for label, eval_set in sets}


def fingerprint_data(task: Task, data_dir: str | None) -> dict[str, str]:
    """What identifies the data of a task before any is loaded: file -> SHA-256, hub data set -> its name.

    Raises:
        InputError: a local file is missing.
    """
    if task.splits is not None:
        return {task.name: f"version {task.version}"}
    sources = dict.fromkeys(s.source for s in (task.train, task.in_domain, *task.out_of_domain))
    if data_dir is None:
        return {f"{s.hub_path}/{s.hub_name or 'default'}/{s.hub_split}": "hub" for s in sources}
    files = [local_path(source, data_dir) for source in sources]
    return {str(f.relative_to(data_dir)): hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in sorted(files)}


def local_path(source: Source, data_dir: str) -> Path:
    """The file of `source` below `data_dir`, with any of the known endings.

    Raises:
        InputError: there is none.
    """
    stem = Path(data_dir) / source.local_file
    for ending in ENDINGS:
        path = stem.with_name(stem.name + ending)
        if path.is_file():
            return path
    raise InputError(
        f"--data_dir {data_dir}: no file {source.local_file} with one of the endings {' '.join(ENDINGS)}; "
        "put it there, or leave --data_dir out to load from the hub"
    )


def _read_source(source: Source, data_dir: str | None, cache_dir: str | None) -> pd.DataFrame:
    import pandas as pd

    if data_dir is None:
        return _read_hub(source, cache_dir)
    path = local_path(source, data_dir)
    readers: dict[str, Any] = {
        ".parquet": pd.read_parquet,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".csv": lambda p: pd.read_csv(p, keep_default_na=False),
        ".tsv": lambda p: pd.read_csv(p, sep="\t", keep_default_na=False, quoting=3),
    }
    try:
        return readers[path.suffix](path)
    except (ValueError, OSError) as error:  # pyarrow's and pandas' parse errors are ValueErrors
        raise InputError(f"--data_dir {data_dir}: {path} cannot be read as {path.suffix[1:]}: {_one_line(error)}") from error


def _read_hub(source: Source, cache_dir: str | None) -> pd.DataFrame:
    import datasets

    try:
        return datasets.load_dataset(
            source.hub_path, source.hub_name, split=source.hub_split, revision=source.hub_revision, cache_dir=cache_dir
        ).to_pandas()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"data set {source.hub_path} ({source.hub_name or 'default'}) cannot be loaded from the hub: {_one_line(error)}; "
            "check the network, or give local files with --data_dir"
        ) from error


def _normalise(frame: pd.DataFrame, eval_set: EvalSet, task: Task) -> list[Row]:
    """Rows of `text1, text2, label, idx` and the columns that `where` selects by; unlabelled rows (-1) are left out."""
    import pandas as pd

    text1, text2 = eval_set.text_columns
    needed = [c for c in (text1, text2, "label", *(column for column, _ in eval_set.where)) if c]
    missing = [c for c in needed if c not in frame.columns]
    if missing:
        raise InputError(
            f"{eval_set.source.local_file}: no column {', '.join(missing)}; the columns are {', '.join(map(str, frame.columns))}"
        )
    if "idx" not in frame.columns:
        frame = frame.assign(idx=range(len(frame)))
    if not pd.api.types.is_integer_dtype(frame["idx"]):
        raise InputError(f"{eval_set.source.local_file}: column idx holds what is no whole number; mend or drop it")
    if frame["idx"].duplicated().any():
        raise InputError(f"{eval_set.source.local_file}: column idx holds the same number twice; make it unique or drop it")
    for column in (text1, text2):
        if column and not frame[column].map(lambda value: isinstance(value, str)).all():
            raise InputError(f"{eval_set.source.local_file}: column {column} holds a value that is not text; mend the file")
    frame = frame[frame["label"] != -1]
    odd = sorted(set(frame["label"]) - set(range(len(task.label_names))), key=str)
    if odd:
        raise InputError(
            f"{eval_set.source.local_file}: label {odd[0]} is out of range; {task.name} has 0 to {len(task.label_names) - 1}"
        )
    for column, value in eval_set.where:
        frame = frame[frame[column] == value]
    if frame.empty:
        raise InputError(f"{eval_set.source.local_file}: there is no labelled row of {eval_set.name} in it; give another file")
    return [
        {
            "text1": row[text1],
            "text2": row[text2] if text2 else None,
            "label": int(row["label"]),
            "idx": int(row["idx"]),
            **{column: row[column] for column, _ in eval_set.where if column != "label"},
        }
        for row in frame.to_dict("records")
    ]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
