"""A run's identity: everything that can change its result, whose hash is its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmft.arguments.config import Config
from llmft.arguments.context import names_documents
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.flags import flags_of
from llmft.arguments.run import RunArguments
from llmft.models.identity import fingerprint_model
from llmft.models.load import resolve, run_of, short_name
from llmft.prompts.render import read_context, text_or_file
from llmft.runs.store import short_hash
from llmft.tasks.load import fingerprint_data
from llmft.tasks.queries import QUERIES, RETAINED, query_source
from llmft.tasks.table import Task

RECORD_VERSION = 5
"""Part of every run's name; raise it when a default changes, or when a change of the code makes the same arguments give other
results."""
TARGETS_METHOD = {"soft": "distill", "hard": "pseudo-label", "gold": "gold-label"}
"""Suffix of the method's name for each of distill.py's --targets."""


def method_name(method: str, config: Config) -> str:
    """Name of a run's method in records, including the trained part.

    Args:
        method: the pipeline's name.
    """
    if config.fine_tuning is not None:
        method = config.fine_tuning.method
    if config.distillation is not None:
        method = TARGETS_METHOD[config.distillation.targets]
    part = config.trained.part if config.trained is not None else None
    return f"{method}-{part}" if part else method


def settings(
    config: Config, task: Task, *, method: str, model_name: str, given: Mapping[str, Any], schedule: Mapping[str, float]
) -> dict[str, Any]:
    """Everything that can change the result of a run. Files count by their content, wherever they are; defaults do not count.

    Args:
        method: the result of `method_name`.
        given: the flags that are not at their default, and their values.
        schedule: learning rate and epochs in use, if they are not the paper's.

    Raises:
        InputError: a file or model cannot be read.
    """
    data, model, run, listed = config.data, config.model, config.run, config.shots.sample_indices_file
    asked = [getattr(config.distillation, name, None) for name in ("query_file", "retain_file")]
    asked_of = [query_source(file, flag) for file, flag in zip(asked, (QUERIES, RETAINED), strict=True) if file is not None]
    deepspeed = run.deepspeed  # a file's name (or, from Python, its content)
    values: dict[str, Any] = {
        "record_version": RECORD_VERSION,
        "method": method,
        "task": (task.name, task.version),
        "model": fingerprint_model(model_name, model.model_revision, gguf_file=model.gguf_file, cache_dir=model.cache_dir),
        "data": fingerprint_data(task, data.data_dir, *asked_of),
        "deepspeed": Path(deepspeed).read_text(encoding="utf-8") if isinstance(deepspeed, str) else deepspeed,
        "devices": (run.device.type, max(1, run.n_gpu), run.world_size),
        "given": named_flags(config, given) | schedule,
    }
    values |= context_settings(config)
    if config.distillation is not None:
        values |= distillation_settings(config.distillation, task, data.data_dir, model.cache_dir)
        if data.upstream_prompts and data.pattern is None and data.target_prefix is None:
            values["upstream_prompts"] = "in context"  # runs with the prefixes of fine-tuning have other names
    if data.system_prompt is not None:
        values["system_prompt"] = text_or_file(data.system_prompt, "--system_prompt")
    if task.rules:
        values["rules"] = [rule.as_text() for rule in task.rules]
    if data.run_code is not None:
        modules = sorted(path for path in Path(data.run_code).rglob("*.py") if path.is_file())
        values["run_code"] = {
            path.relative_to(data.run_code).as_posix(): path.read_bytes().decode(errors="surrogateescape")  # in any encoding
            for path in modules
        }
    if task.metrics:
        values["metrics"] = sorted((Path(name).stem, describe_metric(name, task.answer)) for name in task.metrics)
    if listed is not None:
        values["listed"] = Path(listed).read_text(encoding="utf-8")
    if model.tokenizer_name:
        flag = "--tokenizer_name"
        values["tokenizer"] = fingerprint_model(model.tokenizer_name, model.model_revision, flag, cache_dir=model.cache_dir)
    return values


def named_flags(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given flags that are part of the run's name: not those that it does not use, or that do not change the
    result. A JSON file counts by its text."""
    rules = {name: rules for group in config.groups.values() for name, (_, rules) in flags_of(type(group)).items()}
    named = {
        name: value
        for name, value in given.items()
        if rules[name].in_name and (config.trained is not None or rules[name].evaluation == "read")
    }
    files = {name: value for name, value in named.items() if rules[name].kind == "json" and not str(value).startswith("{")}
    return named | {name: Path(file).read_text(encoding="utf-8-sig") for name, file in files.items()}


def describe_metric(name: str, kind: str) -> str:
    """What identifies a metric of --metric, which is loaded for a kind of answers, in a run's name: a hash of its module's
    source, or its name on the hub."""
    from llmft.evaluation.metrics import metric_file, module_texts

    file = metric_file(name, kind)
    return name if file is None else short_hash(module_texts(file))


def context_settings(config: Config) -> dict[str, Any]:
    """The parts of the context that are read from files, as above."""
    files, instruction = config.context.context_files, getattr(config.context, "instruction", None)
    values: dict[str, Any] = {}
    if files:
        values["context"] = [read_context(file) for file in files]
    if len(files) > 1 and config.context.reads("dialogue"):
        values["dialogues"] = len(files)  # runs of before they were all read have other names
    if files and names_documents(",".join(config.context.contexts), config.data.document_column):
        values["documents"] = [file.name for file in files]
    if instruction is not None:
        values["instruction"] = text_or_file(instruction, "--instruction")
    return values


def distillation_settings(
    flags: DistillationArguments, task: Task, data_dir: str | None, cache_dir: str | None
) -> dict[str, Any]:
    """The files that distillation reads: their content is part of the run's name, their paths are not."""
    from llmft.pipelines.retention import retention_fingerprints, retention_tasks

    values: dict[str, Any] = {}
    if flags.teacher_model_name_or_path is not None:
        values["teacher"] = fingerprint_model(
            flags.teacher_model_name_or_path, flags.teacher_model_revision, "--teacher_model_name_or_path", cache_dir=cache_dir
        )
    if flags.retention_tasks is not None:
        values["retention"] = retention_fingerprints(retention_tasks(flags.retention_tasks, task.name), data_dir)
    return values


def describe(config: Config) -> dict[str, str]:
    """Short names of the files and other models that a run reads."""
    names = {"instruction": getattr(config.context, "instruction", None), "context_file": config.context.context_file}
    names |= {"context_dir": config.context.context_dir}
    if config.distillation is not None:
        flags = config.distillation
        names |= {"teacher": flags.teacher_model_name_or_path, "query_file": flags.query_file, "retain_file": flags.retain_file}
    return {kind: short_name(name)[:60] for kind, name in names.items() if name is not None}


def model_fingerprints(config: Config, model_name: str, settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Paths of a run's models (or their names on the hub), and what identifies their content."""
    names = {"model": model_name}
    if config.distillation is not None and config.distillation.teacher_model_name_or_path is not None:
        names["teacher_model"] = config.distillation.teacher_model_name_or_path
    return {
        which: {"path": os.path.abspath(resolve(name)) if os.path.isdir(resolve(name)) else name, "content": content}
        for which, name in names.items()
        if (content := settings[which.removesuffix("_model")])
    }


def student_of(model_name: str) -> dict[str, Any] | None:
    """Setting and seeds of the run whose student the model is; evaluations of it are repetitions over these seeds."""
    run = run_of(model_name)
    if run is None or "setting" not in run:
        return None
    arguments = {name: value for group in run.get("arguments", {}).values() for name, value in group.items()}
    return {"setting": run["setting"], **{name: arguments.get(name) for name in ("seed", "data_seed")}}


def with_data_seed(settings: Mapping[str, Any], data_seed: int) -> dict[str, Any]:
    """The settings of the run with this data seed."""
    given = {name: value for name, value in settings["given"].items() if name != "data_seed"}
    if data_seed != RunArguments.data_seed:
        given["data_seed"] = data_seed
    return {**settings, "given": given}


def without_seeds(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the seeds of draws and training."""
    return {**settings, "given": {k: v for k, v in settings["given"].items() if k not in ("seed", "data_seed")}}
