"""Checks of distillation's arguments that concern several groups of them, made before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmft.arguments.deepspeed_config import zero_stage
from llmft.errors import InputError
from llmft.evaluation.kinds import answers_of

if TYPE_CHECKING:
    from llmft.arguments.objective import Objective
    from llmft.pipelines.job import Job
    from llmft.prompts.render import PromptFormat


def check_distillation(job: Job) -> None:
    """Check arguments of several groups against each other.

    Raises:
        InputError: arguments do not go together.
    """
    flags, shots, data, run = job.config.distillation, job.config.shots, job.config.data, job.config.run
    context, answers = job.config.context, answers_of(job.task)
    if context.reads("none"):
        raise InputError("--context none: there is no context to distil; name one")
    if context.reads("demonstrations") and not shots.asked_for:
        raise InputError("--num_shots 0: there is no context to distil; ask for 1 demonstration or more, or another --context")
    if answers.in_words and flags.num_contexts > 1:
        raise InputError(f"--num_contexts {flags.num_contexts}: text answers are written after one context; leave it out")
    if answers.in_words and context.reads("label"):
        raise InputError(f"--context label: answers to {job.task.name} are text, not labels; choose another context")
    files = len(context.texts)
    if not job.config.by_document and files > 1 and files != flags.num_contexts:
        raise InputError(
            f"--context_file {context.context_file}: {files} files for --num_contexts {flags.num_contexts}; give one for each"
        )
    if flags.num_contexts > 1 and not context.reads("demonstrations") and (files < 2 or job.config.by_document):
        raise InputError(
            f"--num_contexts {flags.num_contexts}: contexts differ in their demonstrations or files; add them to --context"
        )
    if flags.targets == "soft" and flags.support not in answers.supports:
        raise InputError(
            f"--support {flags.support}: does not apply to answers to {job.task.name}; give one of {', '.join(answers.supports)}"
        )
    if data.max_seq_length is not None:
        raise InputError(
            f"--max_seq_length {data.max_seq_length}: would cut queries after a context, but not without one; teacher and "
            "student must read the same query, leave it out"
        )
    if data.multi_token_labels and flags.support != "labels":  # not a rule of the flag: tasks with text answers set topk
        raise InputError(f"--multi_token_labels: cannot be combined with --support {flags.support}; drop one of them")
    if run.deepspeed:
        _check_deepspeed(job)


def _check_deepspeed(job: Job) -> None:
    """Check that DeepSpeed can run a teacher that reads along."""
    flags, run = job.config.distillation, job.config.run
    along = f"--answers {flags.answers}" if flags.on_policy else "--teacher_mode online"
    if needs_copy(job):
        raise InputError(
            f"{along}: under DeepSpeed a student that changes its weights cannot also be its teacher; "
            f"use {'--answers teacher' if flags.on_policy else 'precompute'}, an adapter, or --teacher_model_name_or_path"
        )
    if flags.on_policy and zero_stage(run.deepspeed) == 3:
        raise InputError(f"{along}: under ZeRO-3 one process would wait for another's weights; use zero2")
    by_query = flags.context_schedule == "cycle" or job.config.by_document
    if flags.reads_along and by_query and zero_stage(run.deepspeed) == 3:
        name = "--context_schedule cycle" if flags.context_schedule == "cycle" else "--context document"
        raise InputError(
            f"{name}: with {along} under ZeRO-3 one process would wait for another's weights; use precompute, mean or zero2"
        )


def check_support(objective: Objective, teacher: PromptFormat, student: PromptFormat, *, calibrate: bool) -> None:
    """Check that the support means the same to teacher and student.

    After different patterns, prefixes or label words only the labels correspond, one to one; other tokens do not. A calibrated
    teacher (`calibrate`) is defined only over the labels, too. A description is part of the context, not of the pattern.

    Raises:
        InputError: they differ (or the teacher is calibrated) and the support is not `labels`.
    """
    if objective.support == "labels":
        return
    for name, text in (("pattern", "patterns"), ("prefix", "target prefixes"), ("words", "target tokens")):
        if getattr(teacher, name) != getattr(student, name):
            line = f"--support {objective.support}: teacher and student have different {text}"
            if not student.words:
                raise InputError(f"{line}, so their answers start in different places; use the same for both")
            raise InputError(f"{line}, so only their labels correspond; use --support labels, or the same for both")
    if calibrate:
        raise InputError(f"--support {objective.support}: --calibrate is defined over the labels; use --support labels with it")


def needs_copy(job: Job) -> bool:
    """Whether a teacher that reads along needs a copy of the model, because training changes the student's weights."""
    from llmft.models.parts.adapt import keeps_base

    flags = job.config.distillation
    return flags.reads_along and flags.teacher_model_name_or_path is None and not keeps_base(job.config.trained.part)
