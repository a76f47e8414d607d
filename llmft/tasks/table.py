"""The task table: a task is one entry of data. A change to an entry that changes prompts or rows bumps its version.

Label words stand in the order of the integer labels. `{text1}`/`{text2}` are the entry's text columns, whatever the data
set calls them. Patterns are those of Mosbach et al. 2023 (arXiv:2305.16938), Table 5, `minimal`, where the paper has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmft.errors import InputError
from llmft.tasks.toy.world import toy_splits

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where the rows of one split lie: on the hub, or below `--data_dir` in the same columns."""

    hub_path: str
    hub_name: str | None
    hub_split: str
    local_file: str
    """Relative to `--data_dir`, without its ending."""
    hub_revision: str | None = None


@dataclass(frozen=True)
class EvalSet:
    """An evaluation set: a source, or the rows of another one that have the given values in the given columns."""

    name: str
    source: Source
    text_columns: tuple[str, str | None]
    where: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class NamedPattern:
    """A pattern, the text between it and the label, and the label words that go with it."""

    pattern: str
    prefix: str
    target_tokens: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One row of the table. `splits`, where given, makes the rows in place of `train` and the evaluation sets' sources."""

    name: str
    version: int
    label_names: tuple[str, ...]
    target_tokens: tuple[str, ...]
    pattern: str
    default_model: str = "facebook/opt-125m"
    train: EvalSet | None = None
    in_domain: EvalSet | None = None
    out_of_domain: tuple[EvalSet, ...] = ()
    splits: Callable[[str | None, int], dict[str, list[Row]]] | None = field(default=None, compare=False)
    has_variants: bool = False

    @property
    def patterns(self) -> dict[str, NamedPattern]:
        return {"minimal": NamedPattern(self.pattern, "", self.target_tokens)}


def _glue(name: str, split: str) -> Source:
    return Source("nyu-mll/glue", name, split, f"glue/{name}/{split}")


# the hub's own parquet copy: the data set itself is a script, which datasets no longer runs
HANS = Source("jhu-cogsci/hans", None, "validation", "hans/validation", hub_revision="refs/convert/parquet")


def hans_sets(heuristic: str) -> tuple[EvalSet, EvalSet]:
    """HANS' rows of one heuristic, split by label as upstream does."""
    entailment, non_entailment = (
        EvalSet(f"hans-{heuristic}-{label}", HANS, ("premise", "hypothesis"), (("heuristic", heuristic), ("label", value)))
        for value, label in enumerate(("entailment", "non-entailment"))
    )
    return entailment, non_entailment


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="toy",
            version=1,
            label_names=("yes", "no"),
            target_tokens=("Yes", "No"),
            pattern="{text1} {text2} ?",
            default_model="toy",
            splits=toy_splits,
            has_variants=True,
        ),
        Task(
            name="rte",
            version=1,
            label_names=("entailment", "not_entailment"),
            target_tokens=("Yes", "No"),
            pattern="{text1} {text2} ?",
            train=EvalSet("train", _glue("rte", "train"), ("sentence1", "sentence2")),
            in_domain=EvalSet("rte", _glue("rte", "validation"), ("sentence1", "sentence2")),
            out_of_domain=hans_sets("lexical_overlap"),
        ),
        Task(
            name="sst2",
            version=1,
            label_names=("negative", "positive"),
            target_tokens=("No", "Yes"),
            pattern="{text1} ?",
            train=EvalSet("train", _glue("sst2", "train"), ("sentence", None)),
            in_domain=EvalSet("sst2", _glue("sst2", "validation"), ("sentence", None)),
        ),
    )
}

task_to_keys: dict[str, tuple[str, str | None]] = {name: task.train.text_columns for name, task in TASKS.items() if task.train}
"""GLUE task -> its text columns; the name is upstream's."""


def get_task(name: str) -> Task:
    """The entry called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError(f"--task_name {name}: no such task; choose one of {', '.join(sorted(TASKS))}")
    return TASKS[name]
