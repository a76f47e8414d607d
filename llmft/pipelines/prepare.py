"""From the command line to the runs that it describes."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmft.arguments.command_line import make, read
from llmft.arguments.config import Config
from llmft.arguments.context import DocumentArguments, names_documents
from llmft.arguments.data import DataArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.flags import flags_of, paths_named
from llmft.arguments.run import SEEDS
from llmft.arguments.training_defaults import PAPER
from llmft.errors import InputError
from llmft.models.load import short_name
from llmft.pipelines.job import Job
from llmft.pipelines.run_identity import (
    describe,
    method_name,
    model_fingerprints,
    settings,
    student_of,
    with_data_seed,
    without_seeds,
)
from llmft.pipelines.schedule import Schedule, learning_rate_in_force, schedule_in_force
from llmft.prompts.render import read_text
from llmft.runs.finished import Command, process_command
from llmft.runs.launch import REMEDY, this_process
from llmft.runs.notes import say_note
from llmft.runs.ranks import all_gather
from llmft.runs.record import RunRecord
from llmft.runs.store import short_hash
from llmft.tasks.formats import check_file
from llmft.tasks.resolve import asked_after, resolve_task, with_training_rows
from llmft.tasks.table import Task


def prepare(method: str, groups: Sequence[type], argv: Sequence[str] | None, description: str) -> list[Job]:
    """Parse the command line and find the records of its runs.

    Args:
        method: the pipeline's name in the record, unless flags make it more specific.
        groups: argument dataclasses; the last is that of the run.
        argv: command line without the program's name; None for the process's own.
        description: what the program does, for `--help`.

    Returns:
        One job, or with `--num_data_seeds` one per data seed.

    Raises:
        InputError: the arguments are unusable.
    """
    asked: list[Task] = []

    def defaults(values: Mapping[str, Any], written: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        data, context = make([DataArguments, DocumentArguments], values)
        named = names_documents(values.get("context", ""), data.document_column)
        asked.append(
            resolve_task(
                data,
                labels_needed=DistillationArguments not in groups,
                query_file=values.get("query_file"),
                context_files=context.context_files if named else (),
            )
        )
        dependent, implied = task_defaults(asked[0], values), {}
        if shown := {"num_shots", "sample_indices_file"} & {*written}:
            implied["context"] = "demonstrations"
            replaced = "context" in values and "context" not in written and dependent["context"] != "demonstrations"
            if replaced and (values["num_shots"] or "sample_indices_file" in written):
                flag = " and ".join(f"--{name}" for name in sorted(shown))
                say_note(f"{flag}: the context is demonstrations, not the task's {dependent['context']}; --context chooses")
        if values.get("answers") == "student":
            implied["divergence"] = "reverse"
        return dependent, implied

    values, given = read(groups, argv, description, defaults)
    (task,) = asked
    check_kind(groups, given, task)
    command = process_command() if argv is None else Command()
    if values["overwrite_output_dir"] or values["push_to_hub"]:
        command.note = None  # there is something to do although the runs are finished
    caches = [values["cache_dir"]] if values["cache_dir"] else []
    command.reads(paths_named(groups, values), caches)
    config = Config.of(make(groups[:-1], values))
    check_paths(config)
    check_context(config, task)
    task = with_training_rows(task, needed=reads_training_rows(config))
    if config.context.reads("file"):
        learns = config.distillation is not None and config.distillation.query_file is None
        task = asked_after(task, config.context.full_paths, training=learns)
    model_name = config.model.model_name_or_path or task.default_model
    command.reads([model_name], caches)
    config, schedule = with_run(config, groups[-1], values, task, model_name)
    if schedule is not None:
        given = {name: value for name, value in given.items() if name not in PAPER}
    try_metrics(task)
    method = method_name(method, config)
    identity = settings(
        config, task, method=method, model_name=model_name, given=given, schedule=schedule.given if schedule else {}
    )
    set_up_process(config)
    jobs = jobs_of(config, task, identity, method=method, model_name=model_name, schedule=schedule)
    check_ranks([str(job.record.path) for job in jobs])
    return jobs


def task_defaults(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of flags that depend on the task, given the values of all flags."""
    from llmft.evaluation.kinds import answers_of

    defaults = {} if values.get("targets", "soft") != "soft" else answers_of(task).defaults
    return {**defaults, "context": task.context}


def check_kind(groups: Sequence[type], given: Mapping[str, Any], task: Task) -> None:
    """Check that the given flags apply to the task's kind of answers.

    Raises:
        InputError: one applies to another kind.
    """
    for group in groups:
        for name, (_, rules) in flags_of(group).items():
            if name in given and rules.answers not in (None, task.answer):
                kinds = {"text": "words", "label": "labels"}
                raise InputError(
                    f"--{name} {given[name]}: is for answers that are {kinds[rules.answers]}, but those to {task.name} are "
                    f"{kinds[task.answer]}; drop this flag"
                )


def reads_training_rows(config: Config) -> bool:
    """Whether a run trains on training rows, asks about them, draws demonstrations, or needs the documents in them."""
    data = config.data
    documents_in_rows = data.document_column is not None and not config.context.context_files
    if data.train_file is not None and documents_in_rows:  # other rows may name them
        return True
    if config.fine_tuning is not None:
        return config.fine_tuning.train_on != "document"
    if config.distillation is not None and config.distillation.query_file is None:
        return True
    return config.context.reads("demonstrations") and config.shots.asked_for


def check_context(config: Config, task: Task) -> None:
    """Check that the context's files will be used. Notes say if some of a folder's files, or the rows' documents, will not.

    Raises:
        InputError: some will not.
    """
    context, by_name = config.context, task.documents is not None and task.splits is None
    say_without_text(context)
    column, kinds = config.data.document_column, [kind for kind in context.contexts if kind not in ("file", "dialogue")]
    if column is not None and kinds != ["none"] and context.contexts and not context.reads("document"):
        say_note(
            f"--document_column {column}: --context {context.context} does not read the rows' documents; "
            f"--context {','.join([*kinds, 'document'])} does"
        )
    if not context.context_files:
        return
    shown = f"--context_dir {context.context_dir}" if context.context_dir else f"--context_file {context.context_file}"
    if context.reads("document") and not by_name:
        raise InputError(f"{shown}: rows of {task.name} have their own documents; drop this flag, or use --context file")
    if config.in_context is not None and len(context.texts) > 1 and not by_name:
        raise InputError(f"{shown}: eval.py reads one context; give one file")


def say_without_text(context: DocumentArguments) -> None:
    """Print a note that counts the files of --context_dir that are left out because they have no text."""
    if context.context_dir is None:
        return
    read = {file.path for file in context.context_files}
    empty = [path for path in context.paths if str(path) not in read]
    if empty:
        say_note(
            f"--context_dir {context.context_dir}: {len(empty)} of the {len(context.paths)} files that --context_glob "
            f"{context.context_glob} matches have no text, the first being {empty[0]}; left out"
        )


def check_paths(config: Config) -> None:
    """Check for files that must exist whatever the task.

    Raises:
        InputError: one does not exist.
    """
    folder, listed, library = config.data.data_dir, config.shots.sample_indices_file, config.data.run_code
    if config.data.train_file is not None:
        check_file(Path(config.data.train_file), f"--train_file {config.data.train_file}")  # even where nothing reads it
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"--data_dir {folder}: no such folder; name the one that holds glue/, hans/, ...")
    if library is not None and not Path(library).is_dir():
        raise InputError(f"--run_code {library}: no such folder; name the one with the modules that the rows import")
    if listed is not None and not Path(listed).is_file():
        raise InputError(f"--sample_indices_file {listed}: no such file; name a csv with a column idx, or a .json list")
    if listed is not None:
        read_text(listed, "--sample_indices_file")  # raises an error if it is not text


def with_run(config: Config, group: type, values: dict[str, Any], task: Task, model_name: str) -> tuple[Config, Schedule | None]:
    """The config with the arguments of the run itself, with the learning rate and epochs in use; also the schedule if a model
    is trained.

    Raises:
        InputError: the arguments are unusable, or the rows that determine the epochs are.
    """
    if config.trained is None:
        return replace(config, run=make([group], values)[0]), None
    rate = learning_rate_in_force(config, values, task, model_name)  # DeepSpeed's config takes it at once
    (run,) = make([group], values | {"learning_rate": rate})
    if run.fp16 and run.deepspeed is not None and run.device.type == "cpu":
        from deepspeed.accelerator import get_accelerator

        if not get_accelerator().is_fp16_supported():
            raise InputError("--fp16 True: DeepSpeed does not train in float16 on this processor; use --bf16, or leave it out")
    schedule = schedule_in_force(config, values, task, model_name)  # may read rows: all arguments are checked by now
    vars(run).update(schedule.values)
    return replace(config, run=run), schedule


def try_metrics(task: Task) -> None:
    """Load the metrics of the task's sets and those of --metric, and compute those of labels for right ones, so that one that is
    missing or does not suit the task is reported before the work is done.

    Raises:
        InputError: a metric is missing, or fails on right labels.
    """
    labels = [*range(len(task.label_names))]
    for name in {*task.metrics, *(name for eval_set in task.row_sets for name in eval_set.metrics)}:
        from llmft.evaluation.metrics import compute_metric, load_metric

        load_metric(name, task.answer)
        if task.answer == "label":
            compute_metric(name, "label", labels, labels)


def set_up_process(config: Config) -> None:
    """Seed all generators, choose deterministic kernels if asked for, and turn progress bars on or off."""
    from transformers import enable_full_determinism, set_seed
    from transformers.utils.logging import disable_progress_bar

    if config.run.disable_tqdm:
        disable_progress_bar()
    (enable_full_determinism if config.run.full_determinism else set_seed)(config.run.seed)


def jobs_of(
    config: Config, task: Task, identity: dict[str, Any], *, method: str, model_name: str, schedule: Schedule | None
) -> list[Job]:
    """The runs of a config, one per data seed; some may be finished already.

    Raises:
        InputError: there are not that many data seeds.
    """
    run, number = config.run, config.in_context.num_data_seeds if config.in_context else 1
    if run.data_seed + number > SEEDS:
        raise InputError(f"--num_data_seeds {number}: the last data seed would not be below {SEEDS}; start from a lower one")
    student = student_of(model_name)
    setting = short_hash(without_seeds({**identity, "model": student["setting"]} if student else identity))
    jobs: list[Job] = []
    for data_seed in range(run.data_seed, run.data_seed + number):
        seeded = with_data_seed(identity, data_seed)
        parts = (method, task.name, short_name(model_name))
        record = RunRecord.locate(run.output_dir, parts, seeded, writes=this_process().is_first)
        record.overwrite = run.overwrite_output_dir
        arguments = copy.copy(run)  # creating TrainingArguments again would start the process group again
        arguments.data_seed = data_seed
        jobs.append(
            Job(
                method=method,
                task=task,
                model_name=model_name,
                config=replace(config, run=arguments),
                given=seeded["given"],
                schedule=schedule.sentence if schedule else None,
                described=describe(config),
                setting=setting,
                identity={
                    "fingerprints": model_fingerprints(config, model_name, identity),
                    "student": student,
                    "folder": os.getcwd(),
                },
                data_fingerprints=seeded["data"],
                record=record,
            )
        )
    return jobs


def check_ranks(runs: list[str]) -> None:
    """Check, on all ranks together, that the ranks of one launch do the same runs.

    Raises:
        InputError: one was asked to do other runs.
    """
    for rank, others in enumerate(all_gather(runs)):
        if others != runs:
            raise InputError(
                f"RANK {rank}: was asked to do {others[0]}, but rank {this_process().rank} was asked to do {runs[0]}; give all "
                f"ranks the same command line and files, or {REMEDY}"
            )
