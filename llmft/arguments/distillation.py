"""Command-line arguments of context distillation."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from llmft.arguments.context import TEXT
from llmft.arguments.flags import flag
from llmft.arguments.objective import ON_POLICY, SOFT, Objective
from llmft.errors import InputError


@dataclass
class DistillationArguments(Objective):
    """Which teacher, and how the student learns from it."""

    _argument_group_name = "distillation"

    label_pattern: str | None = flag(
        "The teacher's prompt that shows the {label}; default: the task's own.", needs="--context label", answers="label"
    )
    label_words: str | None = flag(
        "Text of {label} for each label (comma-separated); default: the target tokens.", needs="--context label", answers="label"
    )
    num_contexts: int = flag(
        "Number of contexts, each of --num_shots other demonstrations, or of one --context_file.", 1, at_least=1
    )
    context_schedule: str = flag(
        "With several contexts: `mean` averages the teachers' distributions; `cycle` gives query i context i mod m.",
        "mean",
        choices=("mean", "cycle"),
        needs="--num_contexts 2+",
    )
    teacher_model_name_or_path: str | None = flag(
        "A different teacher with the same vocabulary; default: the student before training.", kind="path"
    )
    teacher_model_revision: str = flag(
        "Branch, tag or commit of a teacher from the hub.", "main", needs="--teacher_model_name_or_path"
    )
    teacher_mode: str = flag(
        "`precompute`: the teacher reads each query once, before training; `online`: at every step (but its contexts only once).",
        "precompute",
        choices=("precompute", "online"),
        needs=SOFT,
        excludes={
            ON_POLICY: "where the teacher always reads along",
            "--support sampled": "whose tokens are there before training",
        },
    )
    teacher_cache_dir: str | None = flag(
        "Where the teacher's answers are cached for other runs; default: teacher_cache in --output_dir; `none`: no cache.",
        kind="folder",
    )
    targets: str = flag(
        "What the student learns: the teacher's distribution (`soft`), or, as baselines, only its answer (`hard`: pseudo-labels) "
        "or the queries' `gold` labels, without a teacher.",
        "soft",
        choices=("soft", "hard", "gold"),
    )
    answers: str = flag(
        "Whose text answers teacher and student are compared on: the `teacher`'s (generated once, after the context); "
        "those `given` with the queries; those that the `student` generates while it trains (on-policy); or `mixed`: the student "
        "generates, and the teacher takes over where the two are too far apart.",
        "teacher",
        choices=("teacher", "given", "student", "mixed"),
        needs=SOFT,
        answers=TEXT,
    )
    rollout_every: int = flag(
        "Generate the student's answers every this many steps, one for each query of these steps.",
        1,
        at_least=1,
        needs=ON_POLICY,
    )
    rollout_temperature: float = flag(
        "Temperature at which these answers are sampled; 0: always the most probable token.", 1.0, at_least=0, needs=ON_POLICY
    )
    mixed_threshold: float = flag(
        "Jensen-Shannon divergence of teacher and student, in nats, above which the teacher writes the token: 0 means nearly "
        "always, 0.7 never.",
        0.3,
        at_least=0,
        needs="--answers mixed",
    )
    skip_first: int = flag(
        "Number of tokens at the start of a text answer that are left out of the loss; the last token never is.",
        0,
        at_least=0,
        answers=TEXT,
    )
    answer_pattern: str | None = flag(
        "Regular expression whose first group is the answer at the end of the teacher's text: the teacher may reason first, and "
        "the student learns only the group. Answers without a match are dropped. With --answers given it only cuts the "
        "teacher's answers to the evaluation rows.",
        needs="--answers teacher|given",
        excludes={"--targets gold": "which uses no teacher"},
        answers=TEXT,
    )
    query_file: str | None = flag(
        "File of queries, with or without labels, to use instead of training rows (columns: --text1_column, --text2_column).",
        kind="path",
    )
    retention_tasks: str | None = flag("Other tasks (comma-separated) to evaluate the student on before and after.")
    retain_weight: float = flag(
        "Share of the loss that keeps the student close to the original model: their divergence on the prompts of --retain_file.",
        0.0,
        at_least=0,
        below=1,
        needs="--retain_file",
        excludes={"--targets hard|gold": "it is a divergence"},
        answers=TEXT,
    )
    retain_file: str | None = flag(
        "Prompts unrelated to the context, in the format of queries (columns as in --query_file).",
        kind="path",
        needs="--retain_weight",
        answers=TEXT,
    )
    evaluate_with_context: bool = flag("Also evaluate the student with the context before the query.", True)
    teacher_pattern: str | None = flag(
        "The teacher's pattern; default: --pattern.", excludes={"--context label": "use --label_pattern there"}
    )
    student_pattern: str | None = flag("The student's pattern; default: --pattern.")
    teacher_target_prefix: str | None = flag("The teacher's prefix; default: --target_prefix.")
    student_target_prefix: str | None = flag("The student's prefix; default: --target_prefix.")
    teacher_target_tokens: str | None = flag("The teacher's label words; default: --target_tokens.", answers="label")
    student_target_tokens: str | None = flag("The student's label words; default: --target_tokens.", answers="label")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answer_pattern is not None:
            pattern = f"--answer_pattern {self.answer_pattern}"
            try:
                groups = re.compile(self.answer_pattern).groups
            except re.error as error:
                raise InputError(f"{pattern}: is not a regular expression ({error}); fix it") from error
            if not groups:
                raise InputError(f"{pattern}: has no group; put parentheses around the answer, as in 'Answer: (.+)'")

    @property
    def on_policy(self) -> bool:
        """Whether the student generates the answers while it trains."""
        return self.answers in ("student", "mixed")

    @property
    def reads_along(self) -> bool:
        """Whether the teacher reads while the student trains."""
        return self.teacher_mode == "online" or self.on_policy

    def learns_kl(self, *, in_words: bool) -> bool:
        """Whether the loss is the KL that evaluation measures, except for the set of queries.

        Args:
            in_words: whether answers are text, not labels.
        """
        supports = ("topk", "vocab") if in_words else ("labels",)
        other_terms = self.ce_weight or self.retain_weight or self.skip_first or self.on_policy
        forward = self.targets == "soft" and self.divergence == "forward" and self.temperature == 1
        return forward and self.support in supports and not other_terms

    @property
    def objective(self) -> Objective:
        """The checked choices that define the loss."""
        return Objective(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Objective)})
