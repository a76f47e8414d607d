"""llmft as the pipelines use it. Apart from `text_ours` the only file that depends on its signatures."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.world import World

if TYPE_CHECKING:
    from llmft.arguments.distillation import DistillationArguments
    from llmft.arguments.run import RunArguments
    from llmft.distillation.targets import Targets
    from llmft.evaluation.scorer import MeanScorer, Scorer
    from llmft.evaluation.scores import Scores
    from llmft.pipelines.job import Job
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.table import Row


def open_job(method: str, groups: Sequence[type], world: World, *arguments: Any) -> Job:
    """The job of a command line."""
    from llmft.pipelines.prepare import prepare

    argv = ["--use_cpu", "--data_dir", world.data_dir, "--output_dir", world.folder / "runs", *arguments]
    (job,) = prepare(method, groups, list(map(str, argv)), "")
    return job


def open_rte_job(script: str, world: World, model_folder: Path, *arguments: Any) -> Job:
    """That of `eval.py` or `distill.py` on only RTE."""
    from llmft.pipelines import distill, in_context

    method, groups = {"eval.py": ("icl", in_context.GROUPS), "distill.py": ("distill", distill.GROUPS)}[script]
    rte = ("--task", "rte", "--eval_task_name", "none", "--model_name_or_path", model_folder)
    return open_job(method, groups, world, *rte, *arguments)


@dataclass(frozen=True)
class Evaluation:
    """One way of asking, and the rows to ask about."""

    scorer: Scorer
    rows: list[Row]

    @classmethod
    def create(cls, world: World, shots: int, rows: int, **changes: int) -> Evaluation:
        """eval.py's, with `shots` demonstrations; `rows` of the validation rows, starting over if there are too few.

        Args:
            changes: sizes of the model that differ from the world's.
        """
        from llmft.pipelines.loading import load_data
        from llmft.pipelines.prompting import prompt_format_of

        job = open_rte_job("eval.py", world, world.model_folder(**changes), "--num_shots", shots)
        load_data(job, num_contexts=1 if shots else 0)
        model, tokenizer = world.load(**changes)
        scorer = job.scorer(model, tokenizer, prompt_format_of(job), demonstrations=job.demonstrations)
        all_rows = job.eval_sets["rte"]
        return cls(scorer, [all_rows[i % len(all_rows)] for i in range(rows)])

    def score(self, rows: Sequence[Row] | None = None) -> Scores:
        """Scores of all rows; the context is encoded again."""
        from llmft.cost.phases import Phase

        return self.scorer.score(self.rows if rows is None else rows, Phase("benchmark"))

    def encode(self) -> Any:
        """Encode only the context, as `score` does before the first query."""
        return encode(self.scorer, self.prompts)

    @property
    def prompts(self) -> TokenizedPrompts:
        """The rows' prompts: the common tokens, and each row's own."""
        return self.scorer.prompter.prompts(self.rows)


@dataclass(frozen=True)
class Distillation:
    """What distill.py prepares before training, and its trainers."""

    job: Job
    teacher: MeanScorer
    student: Scorer
    queries: list[Row]

    @classmethod
    def create(cls, world: World, shots: int, queries: int, batch: int, *arguments: Any) -> Distillation:
        """distill.py's for one epoch over `queries` training rows."""
        from llmft.pipelines.contexts import context_scorer
        from llmft.pipelines.distill import draw_queries
        from llmft.pipelines.loading import load_data
        from llmft.pipelines.prompting import prompt_format_of
        from llmft.pipelines.training import trainable

        job = open_rte_job(
            "distill.py", world, world.model_folder(), "--num_shots", shots, "--max_train_samples", queries,
            "--num_train_epochs", 1, "--per_device_train_batch_size", batch, "--teacher_cache_dir", "none", *arguments,
        )  # fmt: skip
        load_data(job, num_contexts=1)
        model, tokenizer = world.load()
        job.loaded = model, tokenizer
        teacher = context_scorer(job, job.loaded, "teacher")
        with contextlib.redirect_stdout(io.StringIO()):  # the number of trained weights
            model = trainable(job, model)
        student = job.scorer(model, tokenizer, prompt_format_of(job, "student"), reserved=job.config.trained.virtual_tokens)
        return cls(job, teacher, student, draw_queries(job))

    @property
    def flags(self) -> DistillationArguments:
        """distill.py's own arguments."""

        return self.job.config.distillation

    @property
    def run(self) -> RunArguments:
        """Arguments of training."""

        return self.job.config.run

    def teacher_pass(self) -> Targets:
        """The teacher's answers to all queries."""
        from llmft.cost.phases import Phase
        from llmft.pipelines.learning import teacher_of

        return teacher_of(self.teacher, self.queries, self.flags).precompute(Phase("benchmark"))

    def prompts(self, who: str) -> TokenizedPrompts:
        """The queries' prompts, as `student` or `teacher` reads them."""
        return (self.student if who == "student" else self.teacher.scorers[0]).prompter.prompts(self.queries)

    def read_queries(self) -> Scores:
        """One forward pass over only the queries."""
        from llmft.cost.phases import Phase

        return self.student.score(self.queries, Phase("benchmark"))

    def encode(self) -> Any:
        """Encode only the context."""
        return encode(self.teacher.scorers[0], self.prompts("teacher"))

    def warm_up(self) -> None:
        """Do all late imports now, so that they do not count as memory of the measured work."""

    def fine_tune(self, **more: Any) -> None:
        """One epoch of pattern-based fine-tuning on the queries and their labels."""
        from llmft.training.ft_trainer import FtTrainer

        self._train(FtTrainer, self._examples(gold=True), **more)

    def distil(self, target: Targets, **more: Any) -> None:
        """One epoch on the teacher's answers."""
        self._learn(target, None, **more)

    def distil_online(self, teacher: Any) -> None:
        """One epoch with an online teacher: its `targets(places of queries)` are `Targets`."""
        self._learn(None, teacher)

    def _learn(self, targets: Targets | None, teacher: Any, **more: Any) -> None:
        from llmft.distillation.trainer import ContextDistillationTrainer, with_targets

        learning = {"choices": self.flags.objective, "answers": self.student.answers, "teacher": teacher}
        self._train(ContextDistillationTrainer, with_targets(self._examples(gold=False), targets), **learning, **more)

    def _examples(self, *, gold: bool) -> list[dict[str, Any]]:
        return self.student.answers.examples(self.student.prompter.prompts(self.queries), self.queries, gold=gold)

    def _train(self, trainer_class: type, examples: list[dict[str, Any]], **more: Any) -> None:
        from llmft.pipelines.training import make_trainer

        make_trainer(trainer_class, self.student, examples, self.job.config.run, **more).train()


def encode(scorer: Scorer, prompts: TokenizedPrompts) -> Any:
    """Read the common beginning of all prompts."""
    from llmft.models.reading.reader import PrefixReader, reading

    with torch.no_grad(), reading(scorer.model):
        return PrefixReader(scorer.model, prompts.prefix, scorer.batch_size)


def left_padded(prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """A batch whose last column has every prompt's last token."""
    from llmft.models.reading.batches import left_pad

    return left_pad(prompts)
