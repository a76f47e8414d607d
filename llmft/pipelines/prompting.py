"""The prompt format that a run's flags ask for: of everyone, or of the teacher and the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmft.arguments.distillation import DistillationArguments
from llmft.errors import InputError
from llmft.prompts.placeholders import take_off_placeholders
from llmft.prompts.render import (
    PromptFormat,
    UpstreamPromptFormat,
    decode_escapes,
    escaped,
    names_file,
    read_text,
    text_or_file,
)
from llmft.prompts.verbalizer import parse_words

if TYPE_CHECKING:
    from llmft.pipelines.job import Job


def prompt_format_of(job: Job, who: str | None = None, number: int = 0) -> PromptFormat:
    """The prompt format that the flags ask for.

    Args:
        number: of the teacher's context, where each has a file of its own.
        who: `teacher` or `student` for the one whose own pattern, prefix and target tokens win; else None. The
            description is context: a student never reads it.

    Raises:
        InputError: the flags do not make a prompt.
    """
    data = job.config.data
    own = job.config.distillation if who else None

    def choose(name: str, default: str | None) -> tuple[Any, str]:
        for flag, group in ((f"{who}_{name}", own), (name, data)):
            value = getattr(group, flag, None)
            if value is not None:
                return value, f"--{flag}"
        return default, f"--{name}"

    named = job.task.patterns.get(data.pattern_name)
    if named is None:
        known = ", ".join(job.task.patterns)
        raise InputError(f"--pattern_name {data.pattern_name}: {job.task.name} has the patterns {known}; or give --pattern")
    pattern, pattern_flag = choose("pattern", None)
    shown: tuple[str, ...] = ()
    words, words_flag = choose("target_tokens", ",".join(named.target_tokens))
    labels = parse_words(words, len(job.task.label_names), words_flag)
    if who == "teacher" and own.reads("label"):
        pattern, pattern_flag = own.label_pattern or job.task.label_pattern, "--label_pattern"
        shown = labels if own.label_words is None else parse_words(own.label_words, len(labels), "--label_words")
    if pattern is not None and job.config.trained is not None and job.config.trained.use_soft_prompt:
        pattern = take_off_placeholders(pattern, job.config.trained.num_soft_prompt_tokens, pattern_flag)
    prefix = named.prefix if pattern is None else ""
    if data.upstream_prompts:
        prefix = escaped(prefix)
        if pattern is None and job.method == "icl":
            prefix += " "  # what upstream's own sweeps of in-context learning pass
    return (UpstreamPromptFormat if data.upstream_prompts else PromptFormat)(
        pattern=pattern or (escaped(named.pattern) if data.upstream_prompts else named.pattern),
        prefix=choose("target_prefix", prefix)[0],
        separator=data.separate_shots_by,
        words=labels,
        description="" if who == "student" else data.task_description,
        pattern_flag=pattern_flag,
        words_flag=words_flag,
        **(_in_front(job, own, number) if who == "teacher" else {}),
        shown_labels=shown,
        delimiter=data.label_delimiter,
    )


def _in_front(job: Job, flags: DistillationArguments, number: int) -> dict[str, str]:
    """Instruction and text of files, as far as the teacher reads them; what a file holds is text whatever flag names it."""
    data, instruction, texts = job.config.data, "", []
    if flags.reads("instruction") and flags.instruction is not None:
        instruction = text_or_file(flags.instruction, "--instruction")
        if names_file(flags.instruction):
            instruction, texts = "", [instruction]
    elif flags.reads("instruction"):
        if job.task.instruction is None:
            raise InputError(f"--context instruction: {job.task.name} has no instruction of its own; give --instruction")
        instruction = job.task.instruction(data.task_variant, job.config.run.data_seed)
    if flags.reads("file"):
        files = flags.context_files
        texts.append(read_text(files[number if len(files) > 1 else 0], "--context_file"))
    return {"instruction": instruction, "document": decode_escapes(data.separate_shots_by).join(texts)}
