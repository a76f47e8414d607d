"""Learning rate and epochs of a run: the flags' values, or the defaults for the trained part and the number of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmft.arguments.config import Config
from llmft.arguments.run import RunArguments
from llmft.arguments.training_defaults import DISTILLATION, FINE_TUNING, PAPER, PART_NAMES, TrainingDefaults
from llmft.tasks.listed import listed_idx
from llmft.tasks.load import count_training_rows
from llmft.tasks.queries import load_queries
from llmft.tasks.table import Task


@dataclass(frozen=True)
class Schedule:
    """Learning rate and epochs in use.

    Attributes:
        values: argument -> value; no epochs if `--max_steps` says when training ends.
        sentence: these values and where each comes from, for display.
    """

    values: dict[str, float]
    sentence: str

    @property
    def given(self) -> dict[str, float]:
        """The values in a run's name and in its record's `given`: all except the paper's own."""
        return {name: value for name, value in self.values.items() if value != PAPER[name]}


def learning_rate_in_force(config: Config, values: Mapping[str, Any], task: Task, model_name: str) -> float:
    """The learning rate of a run that trains, known before any row is read; arguments as in `schedule_in_force`."""
    rate = values["learning_rate"]
    return _defaults(config, task, model_name)[0].learning_rate if rate is None else rate


def schedule_in_force(config: Config, values: Mapping[str, Any], task: Task, model_name: str) -> Schedule:
    """The schedule of a run that trains.

    Args:
        config: all arguments except those of the run itself.
        values: the value of each argument, None for a learning rate or epochs that are not given.

    Raises:
        InputError: rows must be counted but cannot be read.
    """
    defaults, about = _defaults(config, task, model_name)
    given = {name: values[name] for name in PAPER if values[name] is not None}
    chosen = {} if "learning_rate" in given else {"learning_rate": defaults.learning_rate}
    by_steps = values["max_steps"] != RunArguments.max_steps
    if not by_steps and "num_train_epochs" not in given:
        rows, kind = _rows(config, values, task) if defaults.by_rows else (1, "")
        chosen["num_train_epochs"] = float(defaults.epochs(rows))
        about += f" on {kind}" if kind else ""
    in_force = {name: (given | chosen)[name] for name in ("learning_rate", *(() if by_steps else ("num_train_epochs",)))}
    return Schedule(in_force, _sentence(in_force, chosen, about, values["max_steps"] if by_steps else None))


def _defaults(config: Config, task: Task, model_name: str) -> tuple[TrainingDefaults, str]:
    """The defaults for the trained part, and its name in the sentence."""
    part = config.trained.part
    if task.training is not None and model_name == task.default_model:
        return task.training[part], f"{PART_NAMES[part]} of the model {model_name}"
    return (DISTILLATION if config.distillation else FINE_TUNING)[part], PART_NAMES[part]


def _sentence(values: Mapping[str, float], chosen: Mapping[str, float], about: str, steps: int | None) -> str:
    texts = {"learning_rate": f"learning rate {values['learning_rate']:g}"}
    texts["num_train_epochs"] = counted(values["num_train_epochs"], "epoch") if steps is None else counted(steps, "step")
    given = ", ".join(text for name, text in texts.items() if name not in chosen)
    default = ", ".join(text for name, text in texts.items() if name in chosen)
    flags = ", ".join(f"--{name}" for name in chosen)
    noun, verb = ("default", "changes it") if len(chosen) == 1 else ("defaults", "change them")
    parts = [f"{given} (as given)"] if given else []
    parts += [f"{default} ({noun} for {about}; {flags} {verb})"] if default else []
    return ", ".join(parts)


def counted(number: float, noun: str) -> str:
    """For example `1 epoch`, `2.5 epochs`."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def _rows(config: Config, values: Mapping[str, Any], task: Task) -> tuple[int, str]:
    """The number of training rows, and their name in the sentence."""
    data, distilling = config.data, config.distillation
    noun = "queries" if distilling else "rows"
    if distilling is None and config.fine_tuning.train_on == "document":
        return 1, "documents"
    if distilling is None and config.fine_tuning.train_on == "demonstrations":
        listed = config.shots.sample_indices_file
        count = config.shots.num_shots if listed is None else len(listed_idx(listed))
        return count, f"{count} rows"
    if data.max_train_samples is not None:
        return data.max_train_samples, f"{data.max_train_samples} {noun}"
    if distilling and distilling.query_file is not None:
        count = len(load_queries(distilling.query_file, data, task, labels=False, quiet=True))
        return count, f"all {count} queries of the file"
    count = count_training_rows(
        task, variant=data.task_variant, data_seed=values["data_seed"], data_dir=data.data_dir, cache_dir=data.dataset_cache_dir
    )
    return count, f"all {count} training rows"
