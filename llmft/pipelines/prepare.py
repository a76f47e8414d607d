"""From the command line to the runs it asks for."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from llmft.arguments.command_line import make, read
from llmft.arguments.config import Config
from llmft.arguments.data import DemonstrationArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.run import IRRELEVANT, RunArguments
from llmft.arguments.run_checks import JSON, SEEDS
from llmft.arguments.training_defaults import PAPER
from llmft.errors import InputError
from llmft.models.identity import fingerprint_model
from llmft.models.load import resolve, run_of, short_name
from llmft.pipelines.job import Job
from llmft.pipelines.schedule import learning_rate_in_force, schedule_in_force
from llmft.prompts.render import read_text, text_or_file
from llmft.runs.launch import REMEDY, this_process
from llmft.runs.record import RunRecord
from llmft.runs.store import short_hash
from llmft.tasks.load import fingerprint_data
from llmft.tasks.queries import query_source
from llmft.tasks.resolve import resolve_task
from llmft.tasks.table import Task

RECORD_VERSION = 5
"""Part of every run's name; to be raised when a default changes, or the code so that the same arguments give other results."""


def prepare(method: str, groups: Sequence[type], argv: Sequence[str] | None, description: str) -> list[Job]:
    """Parse the command line and find the records of the runs it asks for.

    Args:
        method: its name in the record, unless `--method` gives one; the part that is trained is put behind it.
        groups: argument dataclasses.
        argv: command line without the program's name; None for the process's own.
        description: what the program does, for `--help`.

    Returns:
        One job, or with `--num_data_seeds` one for each data seed.

    Raises:
        InputError: the arguments are unusable.
    """
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    values, given = read(groups, argv, description)
    *others, run_group = groups
    instances = make(others, values)
    config = Config.of(instances)
    data, model = config.data, config.model
    if data.data_dir is not None and not Path(data.data_dir).is_dir():
        raise InputError(f"--data_dir {data.data_dir}: no such folder; name the one that holds glue/, hans/, ...")
    distilling = config.distillation
    query_file = distilling.query_file if distilling else None
    task = resolve_task(data, labels_needed=distilling is None, query_file=query_file)
    model_name = model.model_name_or_path or task.default_model
    listed = config.shots.sample_indices_file
    if listed is not None and not Path(listed).is_file():
        raise InputError(f"--sample_indices_file {listed}: no such file; name a csv with a column idx, or a .json list")
    if listed is not None:
        read_text(listed, "--sample_indices_file")  # says so if it is no text
    trains = config.trained is not None
    rate = {"learning_rate": learning_rate_in_force(config, values, task, model_name)} if trains else {}
    (run,) = make([run_group], values | rate)  # DeepSpeed's config takes the rate at once
    schedule = schedule_in_force(config, values, task, model_name) if trains else None  # may read rows: arguments are checked
    if schedule:
        vars(run).update(schedule.values)
        given = {name: value for name, value in given.items() if name not in PAPER} | schedule.given
    method = config.fine_tuning.method if config.fine_tuning else method
    method = TARGETS_METHOD[distilling.targets] if distilling else method
    part = config.trained.part if config.trained else None
    name = f"{method}-{part}" if part else method
    if part == "cartridge" and run.gradient_checkpointing:
        raise InputError(
            "--gradient_checkpointing: layers then read no keys and values but their own; leave it or --use_cartridge out"
        )
    deepspeed = run.deepspeed  # a file's name (or, from Python, its content)
    settings = {
        "record_version": RECORD_VERSION,
        "method": name,
        "task": (task.name, task.version),
        "model": fingerprint_model(model_name, model.model_revision, gguf_file=model.gguf_file, cache_dir=model.cache_dir),
        "data": fingerprint_data(task, data.data_dir),
        "deepspeed": Path(deepspeed).read_text(encoding="utf-8") if isinstance(deepspeed, str) else deepspeed,
        "devices": (run.device.type, max(1, run.n_gpu), run.world_size),
        "given": {name: _content(name, value) for name, value in given.items() if name not in IRRELEVANT},
    }
    if config.fine_tuning and config.fine_tuning.train_on == "train":
        unused = {f.name for f in fields(DemonstrationArguments)}
        settings["given"] = {name: value for name, value in settings["given"].items() if name not in unused}
        listed = None
    if method == "icl":
        refuse_training(given)
        settings["given"] = {name: value for name, value in settings["given"].items() if name not in TRAINING}
    if distilling:
        settings |= distillation_settings(distilling, task, data.data_dir, model.cache_dir)
    if task.metrics:
        settings["metrics"] = sorted((Path(name).stem, describe_metric(name)) for name in task.metrics)
    load_metrics(task)
    if listed is not None:
        settings["listed"] = Path(listed).read_text(encoding="utf-8")
    if model.tokenizer_name:
        settings["tokenizer"] = fingerprint_model(
            model.tokenizer_name, model.model_revision, "--tokenizer_name", cache_dir=model.cache_dir
        )
    if run.disable_tqdm:
        disable_progress_bar()
    set_seed(run.seed)
    parts = (name, task.name, short_name(model_name))
    data_seeds = config.in_context.num_data_seeds if config.in_context else 1
    if run.data_seed + data_seeds > SEEDS:
        raise InputError(f"--num_data_seeds {data_seeds}: the last data seed would not be below {SEEDS}; start from a lower one")
    described = describe(distilling) if distilling else {}
    student = student_of(model_name)
    setting = short_hash(without_seeds({**settings, "model": student["setting"]} if student else settings))
    models = {"model": model_name, "teacher_model": distilling and distilling.teacher_model_name_or_path}
    fingerprints = {
        which: {"path": os.path.abspath(resolve(name)) if os.path.isdir(resolve(name)) else name, "content": content}
        for which, name in models.items()
        if name and (content := settings["model" if which == "model" else "teacher"])
    }
    jobs: list[Job] = []
    for data_seed in range(run.data_seed, run.data_seed + data_seeds):
        own = with_data_seed(settings, data_seed)
        record = RunRecord.locate(run.output_dir, parts, own, writes=this_process().is_first)
        record.overwrite = run.overwrite_output_dir
        seeded = copy.copy(run)  # TrainingArguments must not be made anew: that starts the process group again
        seeded.data_seed = data_seed
        jobs.append(
            Job(
                method=name,
                task=task,
                model_name=model_name,
                config=replace(config, run=seeded),
                given=own["given"],
                schedule=schedule.sentence if schedule else None,
                described=described,
                setting=setting,
                identity={"fingerprints": fingerprints, "student": student, "folder": os.getcwd()},
                data_fingerprints=own["data"],
                record=record,
            )
        )
    _check_ranks([str(job.record.path) for job in jobs])
    return jobs


def describe_metric(name: str) -> str:
    """What a run's name holds of a metric of --metric: a hash of its module's text, or its name on the hub.

    Raises:
        InputError: it cannot be loaded.
    """
    from llmft.evaluation.metrics import load_metric, metric_file, module_texts

    load_metric(name)
    file = metric_file(name)
    return name if file is None else short_hash(module_texts(file))


def load_metrics(task: Task) -> None:
    """Load the metrics of the task's sets: what is missing is to be said before the work is done."""
    for name in {name for eval_set in task.row_sets for name in eval_set.metrics}:
        from llmft.evaluation.metrics import load_metric

        load_metric(name)


def _content(name: str, value: Any) -> Any:
    """The value of an argument; of one that takes JSON or a file with it, the text of that file."""
    names_file = name in JSON and isinstance(value, str) and not value.startswith("{")
    return Path(value).read_text(encoding="utf-8-sig") if names_file else value


def _check_ranks(runs: list[str]) -> None:
    """Ranks of one launch do the same runs, together.

    Raises:
        InputError: one is asked for others.
    """
    from llmft.models.distributed import all_gather

    for rank, others in enumerate(all_gather(runs)):
        if others != runs:
            raise InputError(
                f"RANK {rank}: is to do {others[0]}, and rank {this_process().rank} {runs[0]}; give all ranks the same command "
                f"line and files, or {REMEDY}"
            )


EVALUATION = {"seed", "data_seed", "per_device_eval_batch_size", "max_batch_tokens", "fp16", "bf16", "tf32", "full_determinism"}
TRAINING = {f.name for f in fields(RunArguments)} - EVALUATION | {"max_train_samples"}
"""Arguments that upstream's sweeps may pass to eval.py, where they change nothing."""


def refuse_training(given: dict[str, Any]) -> None:
    """What upstream never passed to eval.py, and nothing reads there, is a mistake.

    Raises:
        InputError: it is given.
    """
    for name in ("eval_strategy", "save_best_models", "log_l2_dist_per_weight", "push_to_hub"):
        if name in given:
            raise InputError(f"--{name} {given[name]}: eval.py does not train; leave it out")


def describe(flags: DistillationArguments) -> dict[str, str]:
    """Short names of what distillation reads from files or other models."""
    found = {"instruction": flags.instruction, "teacher": flags.teacher_model_name_or_path}
    found |= {"context_file": flags.context_file, "query_file": flags.query_file}
    return {name: short_name(value)[:60] for name, value in found.items() if value is not None}


TARGETS_METHOD = {"soft": "distill", "hard": "pseudo-label", "gold": "gold-label"}
"""What distill.py's --targets make of the method."""


def distillation_settings(
    flags: DistillationArguments, task: Task, data_dir: str | None, cache_dir: str | None
) -> dict[str, Any]:
    """What distillation reads from files: their content is part of the run's name, their paths are not."""
    from llmft.pipelines.retention import retention_fingerprints, retention_tasks

    settings: dict[str, Any] = {}
    if flags.context_file is not None:
        settings["context"] = [read_text(file, "--context_file") for file in flags.context_files]
    if flags.instruction is not None:
        settings["instruction"] = text_or_file(flags.instruction, "--instruction")
    if flags.teacher_model_name_or_path is not None:
        settings["teacher"] = fingerprint_model(
            flags.teacher_model_name_or_path,
            flags.teacher_model_revision,
            "--teacher_model_name_or_path",
            cache_dir=cache_dir,
        )
    if flags.query_file is not None:
        settings["data"] = fingerprint_data(task, data_dir, query_source(flags.query_file))
    if flags.retention_tasks is not None:
        settings["retention"] = retention_fingerprints(retention_tasks(flags.retention_tasks, task.name), data_dir)
    return settings


def student_of(model_name: str) -> dict[str, Any] | None:
    """Setting and seeds of the run whose student the model is: what evaluations of it are repeated over."""
    run = run_of(model_name)
    if run is None or "setting" not in run:
        return None
    arguments = {name: value for group in run.get("arguments", {}).values() for name, value in group.items()}
    return {"setting": run["setting"], **{name: arguments.get(name) for name in ("seed", "data_seed")}}


def with_data_seed(settings: dict[str, Any], data_seed: int) -> dict[str, Any]:
    """The settings of a run of its own with that data seed."""
    given = {name: value for name, value in settings["given"].items() if name != "data_seed"}
    if data_seed != RunArguments.data_seed:
        given["data_seed"] = data_seed
    return {**settings, "given": given}


def without_seeds(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings but for the seeds of draws and training."""
    return {**settings, "given": {k: v for k, v in settings["given"].items() if k not in ("seed", "data_seed")}}
