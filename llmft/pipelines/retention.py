"""Retention: how training on one task changes others, each scored zero-shot with its minimal pattern before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError, quote
from llmft.pipelines.prompting import format_of
from llmft.prompts.demonstrations import draw_eval_rows
from llmft.runs.summary import RETENTION
from llmft.tasks.load import fingerprint_data, in_domain_alone, load_in_domain
from llmft.tasks.schema import Row, Task
from llmft.tasks.table import TASKS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from llmft.evaluation.scorer import Scorer
    from llmft.pipelines.job import Job


def retention_tasks(names: str | None, run_task: str) -> list[Task]:
    """The tasks that `--retention_tasks` names; none for None.

    Args:
        run_task: name of the run's own task.

    Raises:
        InputError: one is not in the table, is the run's own, or is listed twice.
    """
    chosen = [] if names is None else [name.strip() for name in names.split(",")]
    others = ", ".join(name for name, task in TASKS.items() if name != run_task and task.answer == "label")
    for place, name in enumerate(chosen):
        if name == run_task:
            raise InputError(f"--retention_tasks {names}: {name} is the run's own task; choose from {others}")
        if name not in TASKS:
            raise InputError(f"--retention_tasks {names}: no task {quote(name)}; choose from {others} (comma-separated)")
        if TASKS[name].answer != "label":
            raise InputError(f"--retention_tasks {names}: the answers of {name} are text, not labels; choose from {others}")
        if name in chosen[:place]:
            raise InputError(f"--retention_tasks {names}: {name} is listed twice; list it once")
    return [in_domain_alone(TASKS[name]) for name in chosen]


def retention_fingerprints(tasks: list[Task], data_dir: str | None) -> dict[str, str]:
    """What identifies prompts and rows of these tasks: set -> version of its task, and the result of `fingerprint_data`.

    Raises:
        InputError: a local file is missing.
    """
    fingerprints: dict[str, str] = {}
    for task in tasks:
        with _naming(task):
            fingerprints |= {set_name(task): f"version {task.version}", **fingerprint_data(task, data_dir)}
    return fingerprints


def set_name(task: Task) -> str:
    """The name of a task's set in the record."""
    return f"{RETENTION}-{task.name}"


@dataclass(frozen=True)
class Retention:
    """The other tasks of a run, possibly none.

    Attributes:
        scorers: set name -> the scorer of its task.
        rows: set name -> the task's own evaluation rows, upstream's fixed draw of --max_eval_samples.
    """

    job: Job
    scorers: dict[str, Scorer]
    rows: dict[str, list[Row]]

    @classmethod
    def create(
        cls, tasks: list[Task], job: Job, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, *, reserved: int = 0
    ) -> Retention:
        """Load the tasks' rows, check that their prompts fit `model`, and add them to the job's other sets.

        Args:
            reserved: as for `Job.scorer`.

        Raises:
            InputError: rows are missing, a label word is not a single token, or a prompt does not fit the model's window.
        """
        data, run = job.config.data, job.config.run
        scorers: dict[str, Scorer] = {}
        rows: dict[str, list[Row]] = {}
        for task in tasks:
            with _naming(task):
                all_rows = load_in_domain(task, data_seed=run.data_seed, data_dir=data.data_dir, cache_dir=data.dataset_cache_dir)
                name = set_name(task)
                rows[name] = draw_eval_rows(all_rows, data.max_eval_samples)
                named = task.patterns["minimal"]
                prompt_format = format_of(data)(
                    named.pattern, named.prefix, data.separate_shots_by, named.target_tokens, words_flag="label words"
                )
                sample = rows[name][0]
                scorers[name] = job.scorer(model, tokenizer, prompt_format, task=task, sample=sample, reserved=reserved)
                scorers[name].check_window(rows[name])
                job.other_tasks[name] = task
        if rows:
            job.other_sets[RETENTION] = rows
        return cls(job, scorers, rows)

    def score(self, stage: str, model: torch.nn.Module) -> None:
        """Score all rows of all tasks with the current model, and add them to the record."""
        for name, scorer in self.scorers.items():
            scores = self.job.score_set(stage, name, scorer.with_model(model), self.rows[name])
            self.job.keep(stage, scorer.answers, {name: scores})

    def change(self, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """`retention_change` for `metrics.json`: every set's headline at stage `after` minus that at `before`."""
        changes = {}
        for name, scorer in self.scorers.items():
            before, after = (stages[stage][name][scorer.answers.headline.name] for stage in ("before", "after"))
            changes[name] = after - before
        return {"retention_change": changes} if changes else {}


@contextmanager
def _naming(task: Task) -> Iterator[None]:
    """Context manager: errors name the task that they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"--retention_tasks {task.name}: {error}; or drop {task.name}") from error
