"""Command-line arguments of context distillation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llmft.arguments.flags import flag
from llmft.arguments.objective import DIVERGENCES, SUPPORTS, Objective
from llmft.errors import InputError

CONTEXTS = ("demonstrations", "instruction", "label", "file")


@dataclass
class DistillationArguments:
    """What the teacher reads, which teacher, and how the student learns from it."""

    _argument_group_name = "distillation"

    context: str = flag(
        "demonstrations",
        "What the teacher reads beside the query, comma between: `demonstrations` (--num_shots), `instruction` (--instruction), "
        "`file` (--context_file), `label` (the query's own gold label, in --label_pattern).",
    )
    instruction: str | None = flag(None, "A text, or a file with one; default: the task's own, where it has one.")
    context_file: str | None = flag(
        None, "File whose text stands in front of the query; or one for each of --num_contexts, comma between."
    )
    label_pattern: str | None = flag(None, "The teacher's prompt that shows the {label}; default: the task's.")
    label_words: str | None = flag(None, "What {label} shows for each label, comma between; default: the target tokens.")
    num_contexts: int = flag(
        1, "Contexts of --num_shots demonstrations each, no row in two of them; or with a --context_file each."
    )
    context_schedule: str = flag(
        "mean",
        "Several contexts: `mean` of the teachers' distributions; `cycle`: query i gets context i mod m.",
        choices=["mean", "cycle"],
    )
    teacher_model_name_or_path: str | None = flag(
        None, "Another teacher of the same vocabulary; default: the student's own start."
    )
    teacher_model_revision: str = flag("main", "Branch, tag or commit of a hub model that teaches.")
    teacher_mode: str = flag(
        "precompute",
        "`precompute`: the teacher reads each query once, before training; `online`: at every step (its contexts still once).",
        choices=["precompute", "online"],
    )
    teacher_cache_dir: str | None = flag(
        None, "Where the teacher's answers are kept for other runs; default: teacher_cache in --output_dir; `none` keeps none."
    )
    targets: str = flag(
        "soft",
        "What the student learns: the teacher's distribution (`soft`), its answer alone (`hard`: pseudo-labels), or, with no "
        "teacher, the queries' `gold` labels: baselines.",
        choices=["soft", "hard", "gold"],
    )
    support: str = flag(
        "labels",
        "What the distributions are over: `labels` alone, `labels_rest` (and one bucket for all other tokens), `topk` (the "
        "teacher's k largest and one bucket), `vocab`.",
        choices=list(SUPPORTS),
    )
    topk: int = flag(50, "k of --support topk.")
    divergence: str = flag(
        "forward", "`forward` KL(teacher || student), `reverse` KL(student || teacher), or `jsd`.", choices=list(DIVERGENCES)
    )
    jsd_beta: float = flag(0.5, "Weight of the teacher in the mixture of --divergence jsd.")
    temperature: float = flag(1.0, "Temperature of teacher and student in the loss, which is multiplied by its square.")
    ce_weight: float = flag(0.0, "Weight of the cross-entropy with gold labels that is added; the queries must have them.")
    query_file: str | None = flag(
        None, "Queries from a file, with labels or without, in place of training rows (columns: --text1_column, --text2_column)."
    )
    retention_tasks: str | None = flag(None, "Other tasks, comma between, that the student is asked about before and after.")
    evaluate_with_context: bool = flag(True, "Evaluate the student once more with the context still in front.")
    teacher_pattern: str | None = flag(None, "The teacher's pattern; default: --pattern.")
    student_pattern: str | None = flag(None, "The student's pattern; default: --pattern.")
    teacher_target_prefix: str | None = flag(None, "The teacher's prefix; default: --target_prefix.")
    student_target_prefix: str | None = flag(None, "The student's prefix; default: --target_prefix.")
    teacher_target_tokens: str | None = flag(None, "The teacher's label words; default: --target_tokens.")
    student_target_tokens: str | None = flag(None, "The student's label words; default: --target_tokens.")

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
        _ = self.objective  # checks itself
        unknown = [name for name in self.contexts if name not in CONTEXTS]
        if unknown or len(set(self.contexts)) < len(self.contexts):
            raise InputError(f"--context {self.context}: give one or more of {', '.join(CONTEXTS)}, comma between, each once")
        only = {"instruction": "instruction", "context_file": "file", "label_pattern": "label", "label_words": "label"}
        for name, kind in only.items():
            if getattr(self, name) is not None and not self.reads(kind):
                raise InputError(
                    f"--{name} {getattr(self, name)}: is read only with --context {kind}; add that, or leave this out"
                )
        if self.reads("file") and self.context_file is None:
            raise InputError("--context file: name the file with --context_file")
        if self.reads("label") and self.teacher_pattern is not None:
            raise InputError(f"--teacher_pattern {self.teacher_pattern}: with --context label give --label_pattern instead")
        self._check_several()
        if self.targets != "soft":
            for name in ("support", "divergence", "temperature", "ce_weight", "teacher_mode"):
                if getattr(self, name) != getattr(type(self), name):
                    raise InputError(f"--{name} {getattr(self, name)}: is read only with --targets soft; leave one of them out")

    def _check_several(self) -> None:
        if self.num_contexts < 1:
            raise InputError(f"--num_contexts {self.num_contexts}: must be 1 or more")
        files = len(self.context_files)
        if files > 1 and files != self.num_contexts:
            raise InputError(
                f"--context_file {self.context_file}: {files} files, --num_contexts {self.num_contexts}; give one each"
            )
        if self.num_contexts > 1 and not self.reads("demonstrations") and files < 2:
            raise InputError(
                f"--num_contexts {self.num_contexts}: contexts differ in their demonstrations or files; add them to --context"
            )
        if self.num_contexts == 1 and self.context_schedule != "mean":
            raise InputError(f"--context_schedule {self.context_schedule}: is read only with --num_contexts 2 or more")
