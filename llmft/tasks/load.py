"""Loads every split of a task as rows (`tasks.schema.Row`), and the documents that they are about.

Local files under `--data_dir` take precedence over the hub; compute nodes are often offline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from llmft.errors import InputError, one_line
from llmft.runs.notes import say_note
from llmft.tasks.files import Place, locate
from llmft.tasks.formats import Table, read_file
from llmft.tasks.rows import make_rows
from llmft.tasks.schema import EvalSet, Row, Source, Task
from llmft.tasks.table import LEXICAL_OVERLAP, OUT_OF_DOMAIN, eval_sets, get_task
from llmft.tasks.texts import answered, name_documents

SUBSAMPLE_SEED = 123
"""Upstream's seed for the subsample of QQP: the same for every data seed."""

_COUNTED: dict[Hashable, tuple[list[Row], list[str]]] = {}
"""A set and the state of its files, read only to be counted -> its rows and notes, until they are loaded."""


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    Attributes:
        demonstrations: the pool that shots are drawn from: the rows of `train` that have a label or an answer, unless the task
            has a separate pool.
        groups: `in_domain`, `out_of_domain` and, if there is one, `test` -> set name -> rows.
        documents: the documents that rows are about, by id.
    """

    train: list[Row]
    demonstrations: list[Row]
    groups: dict[str, dict[str, list[Row]]]
    documents: dict[str, str] = field(default_factory=dict)

    @property
    def in_domain(self) -> dict[str, list[Row]]:
        """Set name -> rows of the task's own evaluation set."""
        return self.groups["in_domain"]

    @property
    def out_of_domain(self) -> dict[str, list[Row]]:
        """Set name -> rows of the task's out-of-domain sets."""
        return self.groups["out_of_domain"]

    @property
    def eval_sets(self) -> dict[str, list[Row]]:
        """Set name -> rows, in-domain first."""
        return {name: rows for sets in self.groups.values() for name, rows in sets.items()}


def load_task(task: Task, *, variant: str | None, data_seed: int, data_dir: str | None, cache_dir: str | None) -> TaskData:
    """Load all splits of `task`.

    Args:
        variant: the variant of a task that has several (`toy`), else None.
        data_seed: determines the variant if none is given.
        data_dir: folder with local files, or None for the hub.
        cache_dir: cache of hub data sets.

    Raises:
        InputError: a file or a column is missing, a label is out of range, or the hub cannot be reached.
    """
    if variant and not task.has_variants:
        raise InputError(f"--task_variant {variant}: task {task.name} has no variants; leave the flag out")
    documents = {} if task.documents is None else task.documents(variant, data_seed)
    if task.splits is not None:
        splits = task.splits(variant, data_seed)
        train, validation = splits.pop("train"), splits.pop("validation")
        demonstrations = splits.pop("demonstrations", train)
        out_of_domain = {f"{task.name}-{name}": rows for name, rows in splits.items()}
        groups = {"in_domain": {task.name: validation}, "out_of_domain": out_of_domain}
        return TaskData(train, demonstrations, groups, documents)
    rows = read_sets(task.row_sets, task, data_dir, cache_dir, documents)
    for eval_set in sorted(task.row_sets, key=lambda s: s is task.train):  # the first title of a text is in its id
        if eval_set.document_column is not None:
            name_documents(rows[eval_set.name], documents)
    cut = [s for s in (task.train, task.in_domain, *task.test) if s is not None]
    splits = cut_splits({s.name: rows[s.name] for s in cut}, task.subsample_splits)
    groups = {
        "in_domain": {task.in_domain.name: splits[task.in_domain.name]},
        "out_of_domain": {s.name: rows[s.name] for s in task.out_of_domain},
        **({"test": {s.name: splits[s.name] for s in task.test}} if task.test else {}),
    }
    train = splits[task.train.name] if task.train is not None else []
    return TaskData(train, [row for row in train if answered(row)], groups, documents)


def count_training_rows(task: Task, *, variant: str | None, data_seed: int, data_dir: str | None, cache_dir: str | None) -> int:
    """The number of training rows that `load_task` returns for these arguments. `load_task` reuses what is read for this.

    Raises:
        InputError: as in `load_task`, for the training rows.
    """
    if task.splits is not None:
        return len(task.splits(variant, data_seed)["train"])
    documents = {} if task.documents is None else task.documents(variant, data_seed)
    place = locate(task.train.source, data_dir)
    rows, notes = make_rows(_read(place, cache_dir), replace(task.train, source=place.source), task, place.where, documents)
    _COUNTED[_state(task.train, place, task, cache_dir, documents)] = rows, notes
    return min(len(rows), task.subsample_splits or len(rows))


def in_domain_alone(task: Task) -> Task:
    """The task with only what its own evaluation rows need.

    That includes training rows only if the splits are cut: the draw of the evaluation rows continues theirs.
    """
    return replace(task, train=task.train if task.subsample_splits else None, out_of_domain=(), test=())


def load_in_domain(task: Task, *, data_seed: int, data_dir: str | None, cache_dir: str | None) -> list[Row]:
    """Only the rows of the task's own evaluation set, the same as from `load_task`.

    Raises:
        InputError: as in `load_task`.
    """
    task = in_domain_alone(task)
    if task.splits is None and task.train is None:
        return read_sets([task.in_domain], task, data_dir, cache_dir)[task.name]
    return load_task(task, variant=None, data_seed=data_seed, data_dir=data_dir, cache_dir=cache_dir).in_domain[task.name]


def cut_splits(splits: Mapping[str, list[Row]], size: int) -> dict[str, list[Row]]:
    """Upstream's draw of `size` rows (0: all) of every split, in drawn order; all splits share one stream.

    A split with fewer rows is kept whole.
    """
    stream = np.random.RandomState(SUBSAMPLE_SEED)
    return {
        name: [rows[i] for i in stream.choice(np.arange(len(rows)), size, replace=False)] if 0 < size <= len(rows) else rows
        for name, rows in splits.items()
    }


def read_sets(
    sets: Iterable[EvalSet], task: Task, data_dir: str | None, cache_dir: str | None, documents: Mapping[str, str] | None = None
) -> dict[str, list[Row]]:
    """Set name -> rows; every source is read once, and notes report dropped rows.

    Args:
        documents: as in `make_rows`.

    Raises:
        InputError: as in `load_task`.
    """
    tables: dict[Place, Table] = {}
    rows: dict[str, list[Row]] = {}
    notes = {}
    for eval_set in sets:
        place = locate(eval_set.source, data_dir)
        counted = _COUNTED.pop(_state(eval_set, place, task, cache_dir, documents), None)
        if counted is None:
            if place not in tables:
                tables[place] = _read(place, cache_dir)
            counted = make_rows(tables[place], replace(eval_set, source=place.source), task, place.where, documents)
        rows[eval_set.name], of_set = counted
        notes |= dict.fromkeys(of_set)
    for note in notes:
        say_note(note)
    return rows


def fingerprint_data(task: Task, data_dir: str | None, *more: Source) -> dict[str, str]:
    """Identifies the data of a task before loading it: file -> SHA-256, hub data set -> its name.

    Args:
        more: sources that are read in addition to the task's own sets.

    Raises:
        InputError: a local file is missing.
    """
    made = {task.name: f"version {task.version}"} if task.splits is not None else {}
    places = dict.fromkeys(locate(source, data_dir) for source in (*(s.source for s in task.row_sets), *more))
    for place in sorted(places, key=lambda place: place.name):
        content = b"".join(path.read_bytes() for path in place.paths)
        made[place.name] = hashlib.sha256(content).hexdigest()[:16] if place.paths else "hub"
    return made


def _state(eval_set: EvalSet, place: Place, task: Task, cache_dir: str | None, documents: Mapping[str, str] | None) -> Hashable:
    """Everything that determines the rows of a set: the request, and size, time and inode of the files."""
    states = [path.stat() for path in place.paths]
    files = tuple((state.st_size, state.st_mtime_ns, state.st_ino) for state in states)
    return eval_set, place, task.name, task.label_names, cache_dir, files, tuple(documents or ())


def _read(place: Place, cache_dir: str | None) -> Table:
    """The rows of the hub data set, or of the files of a place, concatenated."""
    if not place.paths:
        return _read_hub(place.source, cache_dir)
    tables = [read_file(path, place.where, place.source.header, own=place.source.own) for path in place.paths]
    if any(set(table) != set(tables[0]) for table in tables):
        raise InputError(f"{place.where}: the files have different columns; keep those of one download")
    return {name: [value for table in tables for value in table[name]] for name in tables[0]} if tables[1:] else tables[0]


def _read_hub(source: Source, cache_dir: str | None) -> Table:
    import datasets

    try:
        return datasets.load_dataset(
            source.hub_path, source.hub_name, split=source.hub_split, revision=source.hub_revision, cache_dir=cache_dir
        ).to_dict()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"data set {source.hub_path} ({source.hub_name or 'default'}) cannot be loaded from the hub: {one_line(error)}; "
            "check the network, or use local files with --data_dir"
        ) from error


def load_glue_datasets(task_name: str, data_dir: str | None = None, cache_dir: str | None = None) -> dict[str, list[Row]]:
    """Load a task as `{"train": rows, "validation": rows}`; the name is upstream's."""
    task = replace(get_task(task_name), out_of_domain=())
    data = load_task(task, variant=None, data_seed=0, data_dir=data_dir, cache_dir=cache_dir)
    return {"train": data.train, "validation": data.in_domain[task.name]}


def load_hans_dataset(
    heuristic: str = LEXICAL_OVERLAP, data_dir: str | None = None, cache_dir: str | None = None, subcase: str | None = None
) -> dict[str, list[Row]]:
    """Load HANS as set name -> rows, a set for each label of one heuristic (or subcase of it); the name is upstream's."""
    sets = eval_sets(OUT_OF_DOMAIN["hans"], "rte", heuristics=(heuristic,), subcase=subcase)
    return read_sets(sets, get_task("rte"), data_dir, cache_dir)


def load_mnli_mismatched_dataset(
    data_dir: str | None = None, cache_dir: str | None = None, merge: bool = False
) -> dict[str, list[Row]]:
    """Load MNLI-mismatched as set name -> rows, a set for each label; neutral removed, or merged. The name is upstream's."""
    task = get_task("mnli-original" if merge else "mnli")
    return read_sets(eval_sets(OUT_OF_DOMAIN["mnli-mismatched"], task.name), task, data_dir, cache_dir)


def load_paws_qqp_dataset(
    path: str | None = None, data_dir: str | None = None, cache_dir: str | None = None
) -> dict[str, list[Row]]:
    """Load PAWS-QQP as set name -> rows, from the file at `path` or under `data_dir`; the name is upstream's."""
    entry = OUT_OF_DOMAIN["paws-qqp"].read_from(path, "--paws_qqp_file")
    return read_sets(eval_sets(entry, "qqp"), get_task("qqp"), data_dir, cache_dir)


def load_cola_ood_dataset(
    path: str | None = None, data_dir: str | None = None, cache_dir: str | None = None
) -> dict[str, list[Row]]:
    """Load CoLA-OOD as set name -> rows, from the file at `path`, under `data_dir`, or the hub; the name is upstream's."""
    entry = OUT_OF_DOMAIN["cola-ood"].read_from(path, "--cola_ood_file")
    return read_sets(eval_sets(entry, "cola"), get_task("cola"), data_dir, cache_dir)
