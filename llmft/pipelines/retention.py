"""Retention: what training on one task does to others. Each is asked zero-shot in its minimal pattern, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError, quote
from llmft.prompts.demonstrations import draw_eval_rows
from llmft.prompts.render import PromptFormat
from llmft.tasks.load import fingerprint_data, in_domain_alone, load_in_domain
from llmft.tasks.schema import Row, Task
from llmft.tasks.table import TASKS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from llmft.cost.meter import Meter
    from llmft.evaluation.scorer import Asker, SplitScores
    from llmft.pipelines.job import Job

GROUP = "retention"
"""The group of these sets in the record, and what their names begin with."""


def retention_tasks(names: str | None, own: str) -> list[Task]:
    """The tasks that `--retention_tasks` names; none for None.

    Args:
        own: the run's own task.

    Raises:
        InputError: one is not in the table, the run's own, or named twice.
    """
    found = [] if names is None else [name.strip() for name in names.split(",")]
    others = ", ".join(name for name in TASKS if name != own)
    for place, name in enumerate(found):
        if name == own:
            raise InputError(f"--retention_tasks {names}: {own} is the run's own task; choose of {others}")
        if name not in TASKS:
            raise InputError(f"--retention_tasks {names}: no task {quote(name)}; choose of {others}, comma between")
        if name in found[:place]:
            raise InputError(f"--retention_tasks {names}: {name} stands there twice; name it once")
    return [in_domain_alone(TASKS[name]) for name in found]


def retention_fingerprints(tasks: list[Task], data_dir: str | None) -> dict[str, str]:
    """What identifies prompts and rows of these tasks: set -> version of its task, and as `fingerprint_data`.

    Raises:
        InputError: a local file is missing.
    """
    found: dict[str, str] = {}
    for task in tasks:
        with _naming(task):
            found |= {set_name(task): f"version {task.version}", **fingerprint_data(task, data_dir)}
    return found


def set_name(task: Task) -> str:
    """What the set of a task is called in the record."""
    return f"{GROUP}-{task.name}"


@dataclass(frozen=True)
class Retention:
    """The other tasks of a run; there may be none.

    Attributes:
        askers: set name -> how its task is asked.
        rows: set name -> the task's own evaluation rows, upstream's fixed draw of --max_eval_samples.
        metrics: set name -> what the task is measured by beside accuracy.
        meter: counts what scoring a set costs as phase `eval <stage> <set>`.
    """

    askers: dict[str, Asker]
    rows: dict[str, list[Row]]
    metrics: dict[str, tuple[str, ...]]
    meter: Meter

    @classmethod
    def create(cls, tasks: list[Task], job: Job, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> Retention:
        """Load the tasks' rows, see that `model` can be asked about them, and put them among the job's other sets.

        Raises:
            InputError: rows are missing, a label word is not one token, or a prompt does not fit the model's window.
        """
        data, run = job.config.data, job.config.run
        askers: dict[str, Asker] = {}
        rows: dict[str, list[Row]] = {}
        for task in tasks:
            with _naming(task):
                found = load_in_domain(task, data_seed=run.data_seed, data_dir=data.data_dir, cache_dir=data.dataset_cache_dir)
                name = set_name(task)
                rows[name] = draw_eval_rows(found, data.max_eval_samples)
                askers[name] = _asker(task, rows[name], job, model, tokenizer)
        if rows:
            job.other_sets[GROUP] = rows
        return cls(askers, rows, {set_name(task): task.metrics_of(task.name) for task in tasks}, job.meter)

    def score(self, stage: str, model: torch.nn.Module) -> dict[str, SplitScores]:
        """Ask the model, as it is, about all rows of all tasks."""
        found = {}
        for name, asker in self.askers.items():
            with self.meter.phase(f"eval {stage} {name}") as phase:
                scores = asker.with_model(model).score(self.rows[name], phase)
            found[name] = replace(scores, task_metrics=self.metrics[name])
        return found

    def change(self, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """`retention_change` for `metrics.json`: every set's `score_accuracy` at stage `after` less that at `before`."""
        measure = "score_accuracy"
        changes = {name: stages["after"][name][measure] - stages["before"][name][measure] for name in self.askers}
        return {"retention_change": changes} if changes else {}


def _asker(task: Task, rows: list[Row], job: Job, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> Asker:
    from llmft.evaluation.scorer import Asker

    named, data = task.patterns["minimal"], job.config.data
    prompt_format = PromptFormat(
        named.pattern, named.prefix, data.separate_shots_by, named.target_tokens, words_flag="label words"
    )
    asker = Asker.create(
        model,
        tokenizer,
        prompt_format,
        sample=rows[0],
        batch_size=job.config.run.eval_batch,
        max_length=data.max_seq_length,
        soft_prompt_tokens=job.config.trained.virtual_tokens if job.config.trained is not None else 0,
    )
    asker.check_window(rows)
    return asker


@contextmanager
def _naming(task: Task) -> Iterator[None]:
    """Errors say which of the tasks they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"--retention_tasks {task.name}: {error}; or leave {task.name} out") from error
