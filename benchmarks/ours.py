"""llmft as the pipelines use it. The only file of the benchmarks that knows its signatures."""

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
    from llmft.distillation.teacher import Teachers
    from llmft.evaluation.scorer import Asker, SplitScores
    from llmft.pipelines.job import Job
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.table import Row


def open_job(script: str, world: World, model_folder: Path, *arguments: Any) -> Job:
    """The job that a command line asks for: `eval.py` or `distill.py`, on RTE alone."""
    from llmft.pipelines import distill, in_context
    from llmft.pipelines.prepare import prepare

    method, groups = {"eval.py": ("icl", in_context.GROUPS), "distill.py": ("distill", distill.GROUPS)}[script]
    argv = ["--task", "rte", "--eval_task_name", "none", "--use_cpu", "--data_dir", world.data_dir]
    argv += ["--model_name_or_path", model_folder, "--output_dir", world.folder / "runs", *arguments]
    (job,) = prepare(method, groups, list(map(str, argv)), "")
    return job


@dataclass(frozen=True)
class Evaluation:
    """One way of asking, and the rows to ask about."""

    asker: Asker
    rows: list[Row]

    @classmethod
    def create(cls, world: World, shots: int, rows: int, **changes: int) -> Evaluation:
        """eval.py's, with `shots` demonstrations; `rows` of the validation rows, from the first on again where they are too few.

        Args:
            changes: sizes of the model that are not the world's.
        """
        from llmft.pipelines.prompting import prompt_format_of

        job = open_job("eval.py", world, world.model_folder(**changes), "--num_shots", shots)
        job.load_data(num_contexts=1 if shots else 0)
        model, tokenizer = world.load(**changes)
        asker = job.asker(model, tokenizer, prompt_format_of(job), demonstrations=job.demonstrations)
        all_rows = job.eval_sets["rte"]
        return cls(asker, [all_rows[i % len(all_rows)] for i in range(rows)])

    def score(self, rows: Sequence[Row] | None = None) -> SplitScores:
        """Scores of all rows; the context is encoded anew."""
        from llmft.cost.phases import Phase

        return self.asker.score(self.rows if rows is None else rows, Phase("benchmark"))

    def encode(self) -> Any:
        """Encode the context alone, as `score` does before the first query."""
        return _encode(self.asker, self.prompts)

    @property
    def prompts(self) -> TokenizedPrompts:
        """The rows' prompts: the tokens that all share, and each one's own."""
        return self.asker.prompts(self.rows)


@dataclass(frozen=True)
class Distillation:
    """What distill.py prepares before it trains, and its trainers."""

    job: Job
    teachers: Teachers
    student: Asker
    queries: list[Row]

    @classmethod
    def create(cls, world: World, shots: int, queries: int, batch: int, *arguments: Any) -> Distillation:
        """distill.py's for one epoch over `queries` training rows."""
        from llmft.pipelines.distill import draw_queries
        from llmft.pipelines.prompting import prompt_format_of
        from llmft.pipelines.teachers import ask_teachers
        from llmft.pipelines.training import trainable

        job = open_job(
            "distill.py", world, world.model_folder(), "--num_shots", shots, "--max_train_samples", queries,
            "--num_train_epochs", 1, "--per_device_train_batch_size", batch, "--teacher_cache_dir", "none", *arguments,
        )  # fmt: skip
        job.load_data(num_contexts=1)
        model, tokenizer = world.load()
        job.loaded = model, tokenizer
        teachers = ask_teachers(job, job.loaded, [prompt_format_of(job, "teacher")], calibrate=False)
        with contextlib.redirect_stdout(io.StringIO()):  # how many weights are trained
            model = trainable(job, model)
        student = job.asker(model, tokenizer, prompt_format_of(job, "student"), trained=True)
        return cls(job, teachers, student, draw_queries(job))

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
        from llmft.pipelines.distill import teacher_of

        return teacher_of(self.teachers, self.queries, self.flags).precompute(Phase("benchmark"))

    def prompts(self, who: str) -> TokenizedPrompts:
        """The queries' prompts, as `student` or `teacher` reads them."""
        return (self.student if who == "student" else self.teachers.askers[0]).prompts(self.queries)

    def read_queries(self) -> SplitScores:
        """One forward pass over the queries alone."""
        from llmft.cost.phases import Phase

        return self.student.score(self.queries, Phase("benchmark"))

    def encode(self) -> Any:
        """Encode the context alone."""
        return _encode(self.teachers.askers[0], self.prompts("teacher"))

    def warm_up(self) -> None:
        """Import whatever is imported where it is used, so that it does not count as memory of what is measured."""

    def fine_tune(self, **more: Any) -> None:
        """One epoch of pattern-based fine-tuning on the queries and their labels."""
        from llmft.training.ft_trainer import FtTrainer

        labels = self.student.label_ids
        self._train(FtTrainer, [{"answer": labels[row["label"]]} for row in self.queries], **more)

    def distil(self, target: Targets, **more: Any) -> None:
        """One epoch on the teacher's answers."""
        self._learn([{"teacher_logprobs": logprobs} for logprobs in target.logprobs], teacher=None, **more)

    def distil_online(self, teacher: Any) -> None:
        """One epoch with a teacher that reads along: its `targets(places of queries)` are `Targets`."""
        self._learn([{"query": i} for i in range(len(self.queries))], teacher=teacher)

    def _learn(self, parts: list[dict[str, Any]], **more: Any) -> None:
        from llmft.distillation.trainer import ContextDistillationTrainer

        learning = {"choices": self.flags.objective, "label_sequences": self.student.label_sequences}
        self._train(ContextDistillationTrainer, parts, **learning, **more)

    def _train(self, trainer_class: type, parts: list[dict[str, Any]], **more: Any) -> None:
        from llmft.pipelines.training import make_trainer

        prompts = self.student.prompts(self.queries)
        examples = [{"input_ids": prompts.whole(i), **part} for i, part in enumerate(parts)]
        make_trainer(self.job, trainer_class, self.student, examples, **more).train()


def _encode(asker: Asker, prompts: TokenizedPrompts) -> Any:
    from llmft.models.reading.reader import PrefixReader, reading

    with torch.no_grad(), reading(asker.model):
        return PrefixReader(asker.model, prompts.prefix, asker.batch_size)


def left_padded(prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """A batch whose last column holds every prompt's last token."""
    from llmft.models.reading.batches import left_pad

    return left_pad(prompts)
