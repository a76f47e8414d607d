"""Command-line arguments of context distillation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llmft.arguments.flags import flag
from llmft.arguments.objective import SOFT, Objective
from llmft.errors import InputError

CONTEXTS = ("demonstrations", "instruction", "label", "file")


@dataclass
class DistillationArguments(Objective):
    """What the teacher reads, which teacher, and how the student learns from it."""

    _argument_group_name = "distillation"

    context: str = flag(
        "What the teacher reads beside the query, comma between: `demonstrations` (--num_shots), `instruction` (--instruction), "
        "`file` (--context_file), `label` (the query's own gold label, in --label_pattern).",
        "demonstrations",
    )
    instruction: str | None = flag(
        "A text, or a file with one; default: the task's own, where it has one.",
        kind="text or path",
        needs="--context instruction",
    )
    context_file: str | None = flag(
        "File whose text stands in front of the query; or one for each of --num_contexts, comma between.",
        kind="path",
        needs="--context file",
    )
    label_pattern: str | None = flag("The teacher's prompt that shows the {label}; default: the task's.", needs="--context label")
    label_words: str | None = flag(
        "What {label} shows for each label, comma between; default: the target tokens.", needs="--context label"
    )
    num_contexts: int = flag(
        "Contexts of --num_shots demonstrations each, no row in two of them; or with a --context_file each.", 1, at_least=1
    )
    context_schedule: str = flag(
        "Several contexts: `mean` of the teachers' distributions; `cycle`: query i gets context i mod m.",
        "mean",
        choices=("mean", "cycle"),
        needs="--num_contexts 2+",
    )
    teacher_model_name_or_path: str | None = flag(
        "Another teacher of the same vocabulary; default: the student's own start.", kind="path"
    )
    teacher_model_revision: str = flag("Branch, tag or commit of a hub model that teaches.", "main")
    teacher_mode: str = flag(
        "`precompute`: the teacher reads each query once, before training; `online`: at every step (its contexts still once).",
        "precompute",
        choices=("precompute", "online"),
        needs=SOFT,
    )
    teacher_cache_dir: str | None = flag(
        "Where the teacher's answers are kept for other runs; default: teacher_cache in --output_dir; `none` keeps none.",
        kind="folder",
    )
    targets: str = flag(
        "What the student learns: the teacher's distribution (`soft`), its answer alone (`hard`: pseudo-labels), or, with no "
        "teacher, the queries' `gold` labels: baselines.",
        "soft",
        choices=("soft", "hard", "gold"),
    )
    query_file: str | None = flag(
        "Queries from a file, with labels or without, in place of training rows (columns: --text1_column, --text2_column).",
        kind="path",
    )
    retention_tasks: str | None = flag("Other tasks, comma between, that the student is asked about before and after.")
    evaluate_with_context: bool = flag("Evaluate the student once more with the context still in front.", True)
    teacher_pattern: str | None = flag(
        "The teacher's pattern; default: --pattern.", excludes={"--context label": "give --label_pattern there"}
    )
    student_pattern: str | None = flag("The student's pattern; default: --pattern.")
    teacher_target_prefix: str | None = flag("The teacher's prefix; default: --target_prefix.")
    student_target_prefix: str | None = flag("The student's prefix; default: --target_prefix.")
    teacher_target_tokens: str | None = flag("The teacher's label words; default: --target_tokens.")
    student_target_tokens: str | None = flag("The student's label words; default: --target_tokens.")

    @property
    def objective(self) -> Objective:
        """What is minimised, as checked choices."""
        return Objective(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Objective)})

    @property
    def contexts(self) -> tuple[str, ...]:
        """The kinds of context asked for."""
        return tuple(name.strip() for name in self.context.split(","))

    @property
    def context_files(self) -> list[str]:
        """The files of --context_file; one serves all contexts."""
        return [name.strip() for name in (self.context_file or "").split(",") if name.strip()]

    def reads(self, kind: str) -> bool:
        """Whether the teacher reads a context of this kind."""
        return kind in self.contexts

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.contexts if name not in CONTEXTS]
        if unknown or len(set(self.contexts)) < len(self.contexts):
            raise InputError(f"--context {self.context}: give one or more of {', '.join(CONTEXTS)}, comma between, each once")
        if self.reads("file") and self.context_file is None:
            raise InputError("--context file: name the file with --context_file")
        files = len(self.context_files)
        if files > 1 and files != self.num_contexts:
            raise InputError(
                f"--context_file {self.context_file}: {files} files, --num_contexts {self.num_contexts}; give one each"
            )
        if self.num_contexts > 1 and not self.reads("demonstrations") and files < 2:
            raise InputError(
                f"--num_contexts {self.num_contexts}: contexts differ in their demonstrations or files; add them to --context"
            )
