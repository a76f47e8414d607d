"""What a student should keep: the answers that the model gives before training to prompts unrelated to the context."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llmft.runs.notes import say_note
from llmft.tasks.queries import RETAINED, load_queries

if TYPE_CHECKING:
    from llmft.arguments.run import RunArguments
    from llmft.distillation.targets import Targets
    from llmft.distillation.trainer import Retained
    from llmft.evaluation.answer_cache import AnswerCache
    from llmft.evaluation.scorer import Scorer
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row


def retained_rows(job: Job) -> list[Row]:
    """The prompts of `--retain_file`; none without that flag.

    Raises:
        InputError: the file cannot be read.
    """
    file = job.config.distillation.retain_file
    if file is None:
        return []
    rows = load_queries(file, job.config.data, job.task, labels=False, flag=RETAINED)
    return [{**row, "answer": (), "answer_ids": None, "document": None} for row in rows]


def draw_retained(job: Job, rows: list[Row], queries: int) -> list[Row]:
    """Those of the prompts that are kept, at most as many as training on this number of queries reads."""
    most = prompts_read(job.config.run, queries)
    if len(rows) <= most:
        return rows
    file = job.config.distillation.retain_file
    say_note(f"{RETAINED} {file}: training reads at most {most} of its {len(rows)} prompts, which --seed draws")
    return [rows[i] for i in sorted(np.random.default_rng(job.config.run.seed).choice(len(rows), most, replace=False))]


def prompts_read(run: RunArguments, queries: int) -> int:
    """The largest number of prompts that training can read beside its queries: of all epochs and ranks."""
    from llmft.distillation.trainer import read_with

    ranks, whole = run.world_size, math.floor if run.dataloader_drop_last else math.ceil
    each = run.rows_at_once // ranks
    batches = max(whole(queries / run.rows_at_once), 1)  # of a rank in an epoch
    of_epoch = batches * each if ranks > 1 else min(batches * each, queries)  # accelerate fills those of several ranks by repeats
    of_step = each * run.gradient_accumulation_steps
    steps_of_epoch = math.ceil(of_epoch / of_step)
    steps = run.max_steps if run.max_steps > 0 else math.ceil(run.num_train_epochs * steps_of_epoch)
    fewer = read_with(of_step) - read_with(of_epoch - (steps_of_epoch - 1) * of_step)  # in an epoch's last step
    return ranks * (steps * read_with(of_step) - steps // steps_of_epoch * fewer)


def answer_retained(job: Job, student: Scorer, rows: list[Row], cache: AnswerCache | None) -> tuple[list[Row], Targets | None]:
    """The prompts with the model's answers before training, and its distributions along them; None without prompts.

    Args:
        student: asks the model before training.
        cache: holds answers of that model; None for no cache.
    """
    from llmft.distillation.teacher import likeliest_along
    from llmft.evaluation.scorer import MeanScorer

    if not rows:
        return [], None
    scorer = replace(student, cache=cache)
    with job.meter.phase("retain") as phase:
        answered = scorer.answered(rows, phase, counted=False)
        return answered, likeliest_along(MeanScorer((scorer,)), answered, phase, job.config.distillation.topk)


def retained(job: Job, student: Scorer, answered: list[Row], targets: Targets | None) -> Retained | None:
    """The prompts as training examples; None without prompts.

    Args:
        student: asks the model as it is trained (a cartridge stands in place of a template's opening).
        answered, targets: from `answer_retained`.
    """
    from llmft.distillation.trainer import Retained, with_targets

    if targets is None:
        return None
    flags = job.config.distillation
    examples = student.answers.examples(student.prompter.prompts(answered), answered, gold=False)
    choices = replace(flags.objective, support="topk", ce_weight=0.0)
    return Retained(flags.retain_weight, with_targets(examples, targets), choices, job.config.run.seed)
