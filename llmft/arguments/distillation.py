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
        "The teacher's prompt that shows the {label}; default: the task's.", needs="--context label", answers="label"
    )
    label_words: str | None = flag(
        "What {label} shows for each label, comma between; default: the target tokens.", needs="--context label", answers="label"
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
        excludes={
            ON_POLICY: "the teacher always reads along there",
            "--support sampled": "whose tokens are there before training",
        },
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
    answers: str = flag(
        "Whose answers in words teacher and student are compared along: `teacher` (it writes them behind the context, once); "
        "those `given` with the queries; those that the `student` writes while it trains (on-policy); or `mixed`: the student "
        "writes, and the teacher wherever the two are too far apart.",
        "teacher",
        choices=("teacher", "given", "student", "mixed"),
        needs=SOFT,
        answers=TEXT,
    )
    rollout_every: int = flag(
        "Steps from one writing of the student's answers to the next; each query of these steps gets one.",
        1,
        at_least=1,
        needs=ON_POLICY,
    )
    rollout_temperature: float = flag(
        "Temperature at which these answers are sampled; 0: the most probable token each time.", 1.0, at_least=0, needs=ON_POLICY
    )
    mixed_threshold: float = flag(
        "Jensen-Shannon divergence of teacher and student above which the teacher writes a token, in nats: 0 is nearly always, "
        "0.7 never.",
        0.3,
        at_least=0,
        needs="--answers mixed",
    )
    skip_first: int = flag(
        "So many tokens at the start of an answer in words are not learnt, its last one always is.", 0, at_least=0, answers=TEXT
    )
    answer_pattern: str | None = flag(
        "Regular expression whose first group is the answer at the end of what the teacher wrote: it may think in front of that, "
        "and the student learns the group alone. Answers without a match are dropped.",
        needs="--answers teacher",
        excludes={"--targets gold": "the teacher writes nothing there"},
        answers=TEXT,
    )
    query_file: str | None = flag(
        "Queries from a file, with labels or without, in place of training rows (columns: --text1_column, --text2_column).",
        kind="path",
    )
    retention_tasks: str | None = flag("Other tasks, comma between, that the student is asked about before and after.")
    retain_weight: float = flag(
        "Share of the loss that keeps the student as it was: divergence from the model before on the prompts of --retain_file.",
        0.0,
        at_least=0,
        below=1,
        needs="--retain_file",
        excludes={"--targets hard|gold": "it is a divergence"},
        answers=TEXT,
    )
    retain_file: str | None = flag(
        "Prompts that have nothing to do with the context, asked as queries are (columns as in --query_file).",
        kind="path",
        needs="--retain_weight",
        answers=TEXT,
    )
    evaluate_with_context: bool = flag("Evaluate the student once more with the context still in front.", True)
    teacher_pattern: str | None = flag(
        "The teacher's pattern; default: --pattern.", excludes={"--context label": "give --label_pattern there"}
    )
    student_pattern: str | None = flag("The student's pattern; default: --pattern.")
    teacher_target_prefix: str | None = flag("The teacher's prefix; default: --target_prefix.")
    student_target_prefix: str | None = flag("The student's prefix; default: --target_prefix.")
    teacher_target_tokens: str | None = flag("The teacher's label words; default: --target_tokens.")
    student_target_tokens: str | None = flag("The student's label words; default: --target_tokens.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answer_pattern is not None:
            pattern = f"--answer_pattern {self.answer_pattern}"
            try:
                groups = re.compile(self.answer_pattern).groups
            except re.error as error:
                raise InputError(f"{pattern}: is no regular expression ({error}); fix it") from error
            if not groups:
                raise InputError(f"{pattern}: has no group; put parentheses around what is the answer, as in 'Answer: (.+)'")

    @property
    def on_policy(self) -> bool:
        """Whether the student writes the answers while it trains."""
        return self.answers in ("student", "mixed")

    @property
    def reads_along(self) -> bool:
        """Whether the teacher reads while the student trains."""
        return self.teacher_mode == "online" or self.on_policy

    def learns_kl(self, *, in_words: bool) -> bool:
        """Whether the loss is the KL that evaluation measures, but for the queries that it is over.

        Args:
            in_words: whether answers are texts, not labels.
        """
        supports = ("topk", "vocab") if in_words else ("labels",)
        other_terms = self.ce_weight or self.retain_weight or self.skip_first or self.on_policy
        forward = self.targets == "soft" and self.divergence == "forward" and self.temperature == 1
        return forward and self.support in supports and not other_terms

    @property
    def objective(self) -> Objective:
        """What is minimised, as checked choices."""
        return Objective(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Objective)})
