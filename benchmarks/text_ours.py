"""llmft with text answers, as distill.py uses it; apart from `ours` the only file that depends on its signatures."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.kinds import KindWorld
from benchmarks.ours import open_job

if TYPE_CHECKING:
    from llmft.distillation.targets import Targets
    from llmft.distillation.teacher import Teacher
    from llmft.evaluation.scorer import Scorer
    from llmft.pipelines.job import Job
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.schema import Row

TOKENS = 24
"""Tokens per answer."""


@dataclass(frozen=True)
class Texts:
    """A document, queries about it, and answers to them.

    Attributes:
        teacher: asks after the document.
        student: asks without it; a model with LoRA if that is trained, else the teacher's.
        queries: each with the tokens of an answer, `answer_ids`.
    """

    job: Job
    teacher: Scorer
    student: Scorer
    queries: list[Row]

    @classmethod
    def create(
        cls, world: KindWorld, document: int, queries: int, *arguments: Any, tokens: int = TOKENS, trains: bool = False
    ) -> Texts:
        """distill.py's.

        Args:
            document: number of its tokens.
            queries: number of queries.
            tokens: number of tokens per answer.
            trains: whether the student has LoRA, on a separate model.
        """
        from llmft.pipelines.contexts import context_scorer
        from llmft.pipelines.distill import GROUPS, draw_queries
        from llmft.pipelines.loading import load_data
        from llmft.pipelines.prompting import prompt_format_of
        from llmft.pipelines.training import trainable

        model, tokenizer = world.load()
        files = write_files(world, tokenizer, document, queries)
        adapter = ("--use_adapter", "--adapter_dim", 16) if trains else ()
        job = open_job(
            "distill", GROUPS, world, "--task", "questions", "--train_file", files / "queries.jsonl", "--validation_file",
            files / "queries.jsonl", "--context", "file", "--context_file", files / "document.txt", "--max_new_tokens", tokens,
            "--teacher_cache_dir", "none", *adapter, *arguments,
        )  # fmt: skip
        load_data(job, num_contexts=0)
        job.loaded = model, tokenizer
        (teacher,) = context_scorer(job, job.loaded, "teacher").scorers
        if trains:
            with contextlib.redirect_stdout(io.StringIO()):  # the number of trained weights
                model = trainable(job, world.load()[0])
        student = job.scorer(model, tokenizer, prompt_format_of(job, "student"), reserved=job.config.trained.virtual_tokens)
        rows = draw_queries(job)
        ids = tokenizer(" ".join(row["answer"][0] for row in rows), add_special_tokens=False).input_ids * tokens
        answered = [{**row, "answer_ids": ids[i * tokens : (i + 1) * tokens]} for i, row in enumerate(rows)]
        return cls(job, teacher, student, answered)

    def of(self, number: int) -> Texts:
        """The same with the first `number` queries."""
        return replace(self, queries=self.queries[:number])

    def targets(self) -> Targets:
        """The teacher's targets along the answers; it reads the document first."""
        from llmft.cost.phases import Phase

        return self._teacher(self.teacher).precompute(Phase("benchmark"))

    def read_alone(self) -> Targets:
        """The same without a document."""
        from llmft.cost.phases import Phase

        return self._teacher(self.student).precompute(Phase("benchmark"))

    def encode(self) -> Any:
        """Read only the document."""
        from benchmarks.ours import encode

        return encode(self.teacher, self.prompts("teacher"))

    def write(self) -> list[list[int]]:
        """The tokens of the answers that the teacher writes; it reads the document first."""
        from llmft.cost.phases import Phase

        return [row["answer_ids"] for row in self.teacher.answered(self.queries, Phase("benchmark"))]

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens of an answer as text."""
        return self.teacher.answers.written(tokens)

    def prompts(self, who: str) -> TokenizedPrompts:
        """The queries' prompts, as `student` or `teacher` reads them."""
        return getattr(self, who).prompter.prompts(self.queries)

    def prompt_texts(self) -> list[str]:
        """What follows the document in the teacher's prompts."""
        return [self.teacher.prompter.prompt_format.query(row) for row in self.queries]

    def warm_up(self) -> None:
        """Do all late imports now, so that they do not count as memory of the measured work."""
        import llmft.distillation.trainer
        import llmft.pipelines.training  # noqa: F401

    def fine_tune(self, epochs: int = 1, **more: Any) -> None:
        """Training on the answers (SFT)."""
        from llmft.training.ft_trainer import FtTrainer

        self._train(FtTrainer, self.examples(), epochs, **more)

    def distil(self, targets: Targets, epochs: int = 1) -> None:
        """Training on the teacher's targets."""
        from llmft.distillation.trainer import ContextDistillationTrainer, with_targets

        learning = {"choices": self.job.config.distillation.objective, "answers": self.student.answers}
        examples = with_targets(self.examples(gold=False), targets)
        self._train(ContextDistillationTrainer, examples, epochs, **learning)

    def whole(self, epochs: int) -> None:
        """A whole distillation: the teacher writes answers, computes its targets along them, and the student learns."""
        from llmft.cost.phases import Phase

        written = replace(self, queries=self.teacher.answered(self.queries, Phase("benchmark")))
        written.distil(written.targets(), epochs)

    def train_body(self) -> None:
        """Training of everything below the output layer, with a loss that needs no memory."""
        from llmft.models.parts.head import forward_of
        from llmft.models.wrapping import bare_model
        from llmft.training.ft_trainer import FtTrainer

        class BodyTrainer(FtTrainer):
            def _loss_of_texts(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
                with forward_of(bare_model(model).get_output_embeddings(), lambda hidden: hidden):
                    return self.answer_logits(model, inputs).square().mean()

        self._train(BodyTrainer, self.examples(), 1)

    def any_targets(self) -> Targets:
        """Targets of the right shape that need no teacher."""
        from llmft.distillation.targets import Targets

        counts = torch.tensor([len(row["answer_ids"]) for row in self.queries])
        topk = self.job.config.distillation.objective.topk
        tokens = torch.arange(topk).expand(int(counts.sum()), -1)
        logprobs = torch.full((len(tokens), topk + 1), 1 / (topk + 1)).log()
        return Targets(logprobs, tokens, torch.arange(len(counts)).repeat_interleave(counts))

    def examples(self, *, gold: bool = True) -> list[dict[str, Any]]:
        """The student's training examples."""
        return self.student.answers.examples(self.prompts("student"), self.queries, gold=gold)

    def _teacher(self, scorer: Scorer) -> Teacher:
        from llmft.distillation.teacher import Teacher

        return Teacher([scorer], self.queries, self.job.config.distillation.objective)

    def _train(self, trainer_class: type, examples: list[dict[str, Any]], epochs: int, **more: Any) -> None:
        from llmft.pipelines.training import make_trainer

        run = copy.copy(self.job.config.run)
        run.num_train_epochs = epochs
        make_trainer(trainer_class, self.student, examples, run, **more).train()


def write_files(world: KindWorld, tokenizer: Any, document: int, queries: int) -> Path:
    """A folder with `document.txt`, `document` tokens of RTE's texts, and `queries.jsonl`, RTE's hypotheses as questions."""
    import pandas as pd

    folder = world.folder / f"{world.kind}-{document}-{queries}"
    if not folder.is_dir():
        rows = pd.read_parquet(world.data_dir / "glue" / "rte" / "train.parquet")
        text = " ".join(rows["sentence1"])
        text *= 1 + 8 * document // len(text)
        ids = tokenizer(text[: 8 * document], add_special_tokens=False).input_ids[:document]
        folder.mkdir()
        (folder / "document.txt").write_text(tokenizer.decode(ids), encoding="utf-8")
        asked = []
        for i in range(queries):
            row = rows.iloc[i % len(rows)]
            asked.append({"text1": f"{i}. {row['sentence2']}", "answer": row["sentence1"]})
        (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    return folder
