"""Arguments -> the task of a run: an entry of the table or the user's own files, and its out-of-domain sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.tasks.questions import NAMES as QUESTIONS
from llmft.tasks.questions import own_questions
from llmft.tasks.schema import EvalSet, OutOfDomain, Row, Task
from llmft.tasks.table import HANS_SUBCASES, LEXICAL_OVERLAP, OUT_OF_DOMAIN, eval_sets, get_task
from llmft.tasks.user_files import own_task

if TYPE_CHECKING:
    from llmft.arguments.context import ContextFile
    from llmft.arguments.data import DataArguments

DEFAULT_TASK = "rte"
FILE_FLAGS = {"paws-qqp": "paws_qqp_file", "cola-ood": "cola_ood_file"}
"""Out-of-domain set -> the argument that names its file."""


def resolve_task(
    data: DataArguments, *, labels_needed: bool = True, query_file: str | None = None, context_files: Sequence[ContextFile] = ()
) -> Task:
    """The task that the arguments ask for.

    Args:
        labels_needed: whether the user's own training rows must have labels or text answers.
        query_file: distill.py's --query_file.
        context_files: text files, if they are the documents that rows name.

    Raises:
        InputError: there is no such task or set, they cannot be combined, or the user's own files are unusable.
    """
    if data.task_name in QUESTIONS:
        task = own_questions(data, answers_needed=labels_needed, query_file=query_file, context_files=context_files)
    elif data.train_file is None:
        task = get_task(DEFAULT_TASK if data.task_name is None else data.task_name)
    else:
        task = own_task(data, labels_needed=labels_needed)
    task, size = _tested_on(task, data), data.subsample_splits
    if size is not None and task.splits is not None:
        raise InputError(
            f"--subsample_splits {size}: the rows of {task.name} are generated; leave it out, or use --max_eval_samples"
        )
    metrics = tuple(dict.fromkeys((*task.metrics, *data.metrics)))
    return replace(task, subsample_splits=task.subsample_splits if size is None else size, metrics=metrics)


def with_training_rows(task: Task, *, needed: bool) -> Task:
    """The task as a run reads it: without training rows that it does not need if answers are text, so that they may be missing.
    (Those with labels are part of a run's name, and if splits are cut, evaluation rows depend on them.)

    Args:
        needed: whether the run trains on training rows, uses them as queries, draws demonstrations, or needs the documents in
            them.

    Raises:
        InputError: they are needed, and there are none.
    """
    if needed and task.train is None and task.splits is None:
        raise InputError(
            f"--train_file: not given, and {task.name} has no training rows of its own; name a file, or do without: "
            "--context none, file or document instead of demonstrations, --query_file in distill.py"
        )
    drop = not needed and task.answer != "label" and not task.subsample_splits
    return replace(task, train=None) if drop else task


def asked_after(task: Task, files: Sequence[str], *, training: bool) -> Task:
    """The task whose rows are asked after the text of files, if their answers are text: rows that a model wrote about another
    document are then refused.

    Args:
        files: their full paths.
        training: whether training rows are asked, too.
    """
    if task.answer == "label" or task.splits is not None:
        return task

    def asked(eval_set: EvalSet) -> EvalSet:
        return replace(eval_set, asked_after=tuple(files))

    return replace(
        task,
        train=asked(task.train) if training and task.train is not None else task.train,
        in_domain=asked(task.in_domain),
        out_of_domain=tuple(map(asked, task.out_of_domain)),
        test=tuple(map(asked, task.test)),
    )


def _tested_on(task: Task, data: DataArguments) -> Task:
    """The task with the requested out-of-domain sets, or its own."""
    requested = _requested(data)
    names = list(task.partners) if requested is None else list(requested)
    for name, flag in (requested or {}).items():
        if task.name not in OUT_OF_DOMAIN[name].tasks:
            raise InputError(f"{flag}: belongs to {', '.join(OUT_OF_DOMAIN[name].tasks)}, not to {task.name}; leave it out")
    if requested is not None and data.out_of_domain_file is not None:
        raise InputError(
            f"--out_of_domain_file {data.out_of_domain_file}: has no effect with --eval_task_name or --eval_on_...; drop one"
        )
    entries = [_from_files(OUT_OF_DOMAIN[name], data) for name in names]
    for name, argument in FILE_FLAGS.items():
        if getattr(data, argument) is not None and name not in names:
            raise InputError(
                f"--{argument} {getattr(data, argument)}: has no effect without --eval_task_name {name}; add it, or "
                "drop this flag"
            )
    heuristics = _heuristics(data, evaluated="hans" in names)
    if requested is None and not entries:
        return task  # it has its own sets, or none
    if not names and task.splits is not None:
        return replace(task, splits=partial(_in_domain_alone, task))
    sets = [s for e in entries for s in eval_sets(e, task.name, heuristics=heuristics, subcase=data.hans_subcase)]
    return replace(task, out_of_domain=tuple(sets))


def _requested(data: DataArguments) -> dict[str, str] | None:
    """Names of out-of-domain sets -> the flag that requests each; None if no flag mentions them."""
    switches = {name: f"eval_on_{name.replace('-', '_')}" for name in OUT_OF_DOMAIN}
    on = {name: f"--{flag}" for name, flag in switches.items() if getattr(data, flag)}
    if data.eval_task_name is None:
        if data.eval_task_path is not None:
            raise InputError(f"--eval_task_path {data.eval_task_path}: name the set of this file with --eval_task_name")
        return on or None
    shown = f"--eval_task_name {data.eval_task_name}"
    names = [] if data.eval_task_name == "none" else [name.strip() for name in data.eval_task_name.split(",")]
    unknown = [name for name in names if name not in OUT_OF_DOMAIN]
    if unknown:
        raise InputError(
            f"{shown}: no set {quote(unknown[0])}; choose from {', '.join(OUT_OF_DOMAIN)} (comma-separated), or none"
        )
    if not names and on:
        raise InputError(f"{shown}: {next(iter(on.values()))} asks for a set; drop one of them")
    if data.eval_task_path is not None and len(names) != 1:
        raise InputError(
            f"--eval_task_path {data.eval_task_path}: is the file of one set, but {shown} names {len(names)}; name one"
        )
    return {**dict.fromkeys(names, shown), **on}


def _from_files(entry: OutOfDomain, data: DataArguments) -> OutOfDomain:
    """The entry, read from the file that an argument names for it, if any."""
    argument = FILE_FLAGS.get(entry.name)
    file = getattr(data, argument) if argument else None
    if data.eval_task_path is None or entry.name != data.eval_task_name.strip():
        return entry.read_from(file, f"--{argument}")
    if file is not None:
        raise InputError(f"--eval_task_path {data.eval_task_path}: --{argument} {file} names a file too; drop one of them")
    return entry.read_from(data.eval_task_path, "--eval_task_path")


def _heuristics(data: DataArguments, *, evaluated: bool) -> tuple[str, ...]:
    """The requested heuristics of HANS, in the table's order."""
    for argument, default in (("hans_heuristics", LEXICAL_OVERLAP), ("hans_subcase", None)):
        if getattr(data, argument) != default and not evaluated:
            raise InputError(f"--{argument} {getattr(data, argument)}: has no effect unless hans is evaluated; leave it out")
    names = [name.strip() for name in data.hans_heuristics.split(",")]
    names = list(HANS_SUBCASES) if names == ["all"] else names
    unknown = [name for name in names if name not in HANS_SUBCASES]
    if unknown:
        raise InputError(
            f"--hans_heuristics {data.hans_heuristics}: no heuristic {quote(unknown[0])}; "
            f"choose from {', '.join(HANS_SUBCASES)}, or all"
        )
    subcases = [subcase for name in names for subcase in HANS_SUBCASES[name]]
    if data.hans_subcase is not None and data.hans_subcase not in subcases:
        raise InputError(
            f"--hans_subcase {data.hans_subcase}: not a subcase of {', '.join(names)}; choose from {' '.join(subcases)}"
        )
    return tuple(name for name in HANS_SUBCASES if name in names)


def _in_domain_alone(task: Task, variant: str | None, data_seed: int) -> dict[str, list[Row]]:
    splits = task.splits(variant, data_seed)
    return {name: rows for name, rows in splits.items() if name in ("train", "validation", "demonstrations")}
