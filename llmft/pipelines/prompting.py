"""The prompt format that a run's flags select, for everyone or for teacher and student separately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llmft.arguments.data import DataArguments
from llmft.errors import InputError
from llmft.prompts.alignment import check_alignment
from llmft.prompts.chat import ChatFormat
from llmft.prompts.placeholders import take_off_placeholders
from llmft.prompts.render import (
    PromptFormat,
    UpstreamPromptFormat,
    decode_escapes,
    escaped,
    names_file,
    read_context,
    text_or_file,
)
from llmft.prompts.turns import read_turns
from llmft.prompts.verbalizer import parse_words

if TYPE_CHECKING:
    from llmft.evaluation.scorer import MeanScorer, Scorer
    from llmft.pipelines.job import Job
    from llmft.prompts.demonstrations import Row
    from llmft.tasks.schema import NamedPattern


def prompt_format_of(job: Job, who: str | None = None, number: int = 0) -> PromptFormat:
    """The prompt format that the flags select.

    Args:
        number: the number of the teacher's context, if each has its own file.
        who: `teacher` or `student`, whose own pattern, prefix and target tokens take precedence; else None. The description
            is context: a student never reads it.

    Raises:
        InputError: the flags do not give a prompt.
    """
    data, upstream = job.config.data, job.config.data.upstream_prompts
    named = _named_pattern(job)
    tuning = job.config.fine_tuning
    nameless = job.task.label_names if tuning is not None and tuning.method == "vanilla" else ()  # a new head reads no words
    words, words_flag = _choose(job, who, "target_tokens", named.target_tokens or nameless)
    labels = parse_words(words, len(job.task.label_names), words_flag)
    pattern, pattern_flag = _pattern(job, who)
    prefix, _ = _choose(job, who, "target_prefix", _default_prefix(job, named.prefix) if pattern is None else "")
    return format_of(data, UpstreamPromptFormat if upstream else PromptFormat)(
        pattern=pattern or (escaped(named.pattern) if upstream else named.pattern),
        prefix=prefix,
        separator=data.separate_shots_by,
        words=labels,
        description="" if who == "student" else data.task_description,
        pattern_flag=pattern_flag,
        words_flag=words_flag,
        **(_context(job, labels, number) if who == "teacher" or job.method == "icl" else {}),
        delimiter=delimiter_of(job),
        delimiter_flag="" if data.label_delimiter is not None or job.task.delimiter is None else f"--task {job.task.name}",
    )


def delimiter_of(job: Job) -> str | None:
    """What stands between a query and its answer, as given or as the task has it; None for the format's choice."""
    given = job.config.data.label_delimiter
    return job.task.delimiter if given is None else given


def check_aligned(teacher: MeanScorer, student: Scorer, rows: Sequence[Row]) -> None:
    """Check that the prompts of teacher and student differ only by the context, if there is a chat template or more than one
    token after the query is compared.

    Raises:
        InputError: they differ otherwise.
    """
    if not student.answers.in_words and not isinstance(student.prompter.prompt_format, ChatFormat):
        return
    for scorer, places in teacher.parts(rows):
        check_alignment(scorer.prompter, student.prompter, [rows[place] for place in places])


def format_of(data: DataArguments, pattern_format: type[PromptFormat] = PromptFormat) -> Callable[..., PromptFormat]:
    """The class of the prompt format: that for chats if the flags say so, else `pattern_format`."""
    if not data.chat:
        return pattern_format
    system = None if data.system_prompt is None else text_or_file(data.system_prompt, "--system_prompt")
    return partial(ChatFormat, system_prompt=system, context_role=data.context_role)


def _choose(job: Job, who: str | None, name: str, default: Any) -> tuple[Any, str]:
    """The value of a flag, and the flag: the teacher's or the student's own if it is given, else the common one."""
    for flag, group in ((f"{who}_{name}", job.config.distillation if who else None), (name, job.config.data)):
        value = getattr(group, flag, None)
        if value is not None:
            return value, f"--{flag}"
    return default, f"--{name}"


def _named_pattern(job: Job) -> NamedPattern:
    name = job.config.data.pattern_name
    if name not in job.task.patterns:
        raise InputError(
            f"--pattern_name {name}: {job.task.name} has the patterns {', '.join(job.task.patterns)}; use one, or --pattern"
        )
    return job.task.patterns[name]


def _pattern(job: Job, who: str | None) -> tuple[str | None, str]:
    """The pattern that flags give instead of a named one, and the flag."""
    pattern, flag = _choose(job, who, "pattern", None)
    trained = job.config.trained
    if who == "teacher" and job.config.context.reads("label"):
        pattern, flag = job.config.distillation.label_pattern or job.task.label_pattern, "--label_pattern"
    if pattern is not None and trained is not None and trained.use_soft_prompt:
        pattern = take_off_placeholders(pattern, trained.num_soft_prompt_tokens, flag)
    return pattern, flag


def _default_prefix(job: Job, prefix: str) -> str:
    """A named pattern's prefix; for upstream's prompts, with the space that upstream's in-context sweeps pass, but not its sweeps
    of fine-tuning. Distillation has the prompts of in-context learning."""
    if not job.config.data.upstream_prompts:
        return prefix
    return escaped(prefix) + (" " if job.config.fine_tuning is None else "")


def _context(job: Job, labels: tuple[str, ...], number: int) -> dict[str, Any]:
    """Instruction, text of files, a dialogue and gold labels, as far as they are read before a query; the content of a file is
    plain text whatever flag names it."""
    data, flags, distillation = job.config.data, job.config.context, job.config.distillation
    instruction, texts = "", []
    if distillation is not None and distillation.label_words is not None:
        labels = parse_words(distillation.label_words, len(labels), "--label_words")
    if flags.reads("instruction") and flags.instruction is not None:
        instruction = text_or_file(flags.instruction, "--instruction")
        if names_file(flags.instruction):
            instruction, texts = "", [instruction]
    elif flags.reads("instruction"):
        if job.task.instruction is None:
            raise InputError(f"--context instruction: {job.task.name} has no instruction of its own; give --instruction")
        instruction = job.task.instruction(data.task_variant, job.config.run.data_seed)
    separator = decode_escapes(data.separate_shots_by)
    if flags.reads("file") and not job.config.by_document:
        texts.append(file_text(job, number))
    dialogue = read_turns(flags.files_of_context(number)[0].path, "--context_file") if flags.reads("dialogue") else ()
    return {
        "instruction": instruction,
        "document": separator.join(texts),
        "turns": dialogue,
        "shown_labels": labels if flags.reads("label") else (),
    }


def file_text(job: Job, number: int = 0) -> str:
    """The text for --context file: that of a file, or of all files in a folder.

    Args:
        number: the number of the context, if each has its own file.

    Raises:
        InputError: a file cannot be read.
    """
    files = job.config.context.files_of_context(number)
    return decode_escapes(job.config.data.separate_shots_by).join(map(read_context, files))
