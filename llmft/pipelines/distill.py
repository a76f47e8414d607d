"""Context distillation: a frozen teacher reads a context and a query; the student reads the query alone and learns to answer
alike. The queries are training rows without their labels, unless what is asked for needs those."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.arguments.context import ChunkArguments, ContextArguments, WritingArguments
from llmft.arguments.data import CalibrationArguments, DataArguments, DemonstrationArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.methods import AdapterArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import DistillationRunArguments
from llmft.errors import InputError
from llmft.pipelines.chunking import about_chunks
from llmft.pipelines.comparison import (
    compare,
    mean_losses,
    say_how_far,
    say_whether_context_helps,
    say_whether_out_of_domain_suffers,
)
from llmft.pipelines.contexts import about_file, context_scorer, named_documents
from llmft.pipelines.distillation_checks import check_distillation, check_support, needs_copy
from llmft.pipelines.job import Job
from llmft.pipelines.loading import load_data, load_start
from llmft.pipelines.prepare import prepare
from llmft.pipelines.process import run_jobs
from llmft.pipelines.prompt_notes import say_prompts
from llmft.pipelines.prompting import check_aligned, prompt_format_of
from llmft.pipelines.teacher_answers import keep_answers, references, split_answers, thinking, writes_answers
from llmft.prompts.demonstrations import draw_training_rows
from llmft.runs.notes import say_note
from llmft.tasks.queries import leave_out, load_queries
from llmft.tasks.rows import left_out
from llmft.tasks.schema import Row
from llmft.tasks.texts import answered

if TYPE_CHECKING:
    import torch

    from llmft.distillation.targets import Targets
    from llmft.distillation.teacher import Teacher
    from llmft.distillation.trainer import Retained
    from llmft.evaluation.scorer import MeanScorer, Scorer
    from llmft.evaluation.scores import Scores
    from llmft.pipelines.retention import Retention
    from llmft.pipelines.training import Trained

GROUPS = (
    ModelArguments,
    AdapterArguments,
    DataArguments,
    ContextArguments,
    ChunkArguments,
    DemonstrationArguments,
    WritingArguments,
    CalibrationArguments,
    DistillationArguments,
    DistillationRunArguments,
)


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Distil a context into a model; evaluate teacher, student before and student after.

    Returns:
        The folders of the runs.

    Raises:
        InputError: the arguments are unusable.
    """
    return run_jobs(prepare("distill", GROUPS, argv, description=__doc__), distil)


def distil(job: Job) -> None:
    """One run."""
    from llmft.models.reading.kv_cache import kv_bytes_per_token
    from llmft.pipelines.elsewhere import Elsewhere, context_texts
    from llmft.pipelines.retaining import retained
    from llmft.pipelines.training import trainable

    flags = job.config.distillation
    check_distillation(job)
    with job.meter.phase("load"):
        teacher, student, queries, retention, retain_rows = load(job)
        texts = [text for scorer in teacher.scorers for text in context_texts(scorer.prompter)]
        elsewhere = Elsewhere.create(job, student.answers, texts)
    with job.meter.phase("teacher") as phase:
        writes = writes_answers(job, student.answers)
        if writes:
            queries = teacher.answered(queries, phase)
            if flags.answer_pattern is not None:
                queries, parts = split_answers(teacher.answers, queries)
                job.train_idx = [row["idx"] for row in queries]  # by which a loss that is no number is told
            keep_answers(job, student.answers, queries)
        distributions = flags.targets == "soft" or (flags.targets == "hard" and not student.answers.in_words)
        precompute = distributions and not flags.reads_along
        targets = teacher_of(teacher, queries, flags, counted=not writes).precompute(phase) if precompute else None
    scores = {"teacher": job.score("teacher", teacher)}
    if student.answers.in_words:
        job.references = references(job, teacher, scores["teacher"])
    scores["before"] = job.score("before", student)
    elsewhere.before(student)
    elsewhere.score("teacher", teacher.scorers[0])
    if flags.targets != "gold":
        say_whether_context_helps(job, student.answers.headline)
    retention.score("before", student.model)
    cache, sizes = teacher.scorers[0].cache, {"teacher": kv_bytes_per_token(teacher.scorers[0].model)}
    if not flags.reads_along:  # its answers are all that training needs: another model goes out of memory
        teacher = teacher.with_model(student.model)
    elif needs_copy(job):
        teacher = teacher.with_model(copy.deepcopy(student.model))
    own_cache = cache if flags.teacher_model_name_or_path is None else None
    keeps = retained(job, student, retain_rows, own_cache)
    student = student.with_model(trainable(job, student.model, context_ids=teacher.scorers[0].prompter.context_ids))
    trained = learn(job, student, queries, teacher, targets, scores["teacher"], keeps)
    retention.score("after", student.model)
    elsewhere.score("after", student)
    elsewhere.keep()
    metrics = (
        compare(job, student.answers, scores | trained.scores, {**sizes, "student": kv_bytes_per_token(student.model)})
        | trained.metrics
        | retention.change(job.record.stages)
        | elsewhere.metrics(scores | trained.scores)
    )
    if flags.evaluate_with_context:
        metrics |= with_context(job, teacher.with_model(student.model))
    if flags.answer_pattern is not None:
        metrics["answer_pattern"] = parts
    metrics["contexts"] = {
        "kinds": list(job.config.context.contexts),
        "number": len(teacher.scorers),
        "schedule": flags.context_schedule,
        "demonstrations": sum(map(len, job.contexts)),
    }
    ends = scores["before"], trained.scores["after"]
    say_whether_out_of_domain_suffers(job.data.out_of_domain, *ends, student.answers.headline)
    if job.record.writes and flags.targets != "gold":  # whose student is not to become like the teacher
        losses = mean_losses(trained.log) if flags.learns_kl(in_words=student.answers.in_words) else []
        for name in job.data.in_domain:  # in front of the table, the last that a sweep shows of a run
            say_how_far(name, metrics["kl"]["before"][name], metrics["kl"]["after"][name], losses)
    formats = {  # those of documents differ in these alone
        "teacher": [scorer.prompter.prompt_format for scorer in teacher.scorers[: flags.num_contexts]],
        "student": [student.prompter.prompt_format],
    }
    job.finish(metrics, trained.log, prompts=formats, saved=cache.saved_but(job.paid_before) if cache else None)


def load(job: Job) -> tuple[MeanScorer, Scorer, list[Row], Retention, list[Row]]:
    """Teacher, student (its model not yet made trainable), queries, the retention tasks, and the prompts of `--retain_file`.

    Raises:
        InputError: something is missing or does not fit together; past this, the run has a folder.
    """
    from llmft.models.parts.adapt import trained_weights
    from llmft.pipelines.on_policy import check_follows
    from llmft.pipelines.retaining import retained_rows
    from llmft.pipelines.retention import Retention, retention_tasks
    from llmft.pipelines.teachers import check_sizes, teacher_model, with_cache
    from llmft.training.stop_at_nan import check_start

    flags, calibrate = job.config.distillation, job.config.calibration.calibrate
    student_format = prompt_format_of(job, "student")
    check_support(flags.objective, prompt_format_of(job, "teacher"), student_format, calibrate=calibrate)
    load_data(job, num_contexts=flags.num_contexts if job.config.context.reads("demonstrations") else 0)
    queries = draw_queries(job)
    queries = about_file(job, queries)
    named_documents(job, queries)
    model, tokenizer = load_start(job)
    queries = about_chunks(job, tokenizer, queries)
    teacher = context_scorer(job, teacher_model(job, flags, tokenizer), "teacher", queries=queries, calibrate=calibrate)
    student = job.scorer(model, tokenizer, student_format, trained=True)
    student = replace(student, answers=student.answers.ending_as(teacher.answers))
    retention = Retention.create(retention_tasks(flags.retention_tasks, job.task.name), job, model, tokenizer)
    job.check_prompts(teacher, student, train_rows=queries)
    teacher = thinking(teacher, flags.answer_pattern)
    check_aligned(teacher, student, [*queries, *(row for rows in job.eval_sets.values() for row in rows)])
    check_sizes(job, teacher)
    check_start(job.model_name, trained_weights(model, job.config.trained))
    check_follows(job, teacher.scorers[0].model)
    retain_rows = retained_rows(job, student)
    teacher = with_cache(job, teacher)
    job.begin()
    say_prompts(job, {"teacher": teacher.scorers[0], "student": student}, queries, trained_as="queries that are learnt from")
    return teacher, student, queries, retention, retain_rows


def draw_queries(job: Job) -> list[Row]:
    """Training rows, or rows of --query_file, that are in no context.

    Raises:
        InputError: there are fewer than asked for, or they lack the labels that are asked for.
    """
    flags, data = job.config.distillation, job.config.data
    shown = [row for context in job.contexts for row in context]
    needs = {
        "--context label": job.config.context.reads("label"),
        "--targets gold": flags.targets == "gold",
        "--answers given": flags.answers == "given",
        "--ce_weight": flags.ce_weight and job.task.answer == "label",
    }
    needing = next((name for name, needed in needs.items() if needed), None)
    rows = job.data.train
    if flags.query_file is not None:
        rows = load_queries(flags.query_file, data, job.task, labels=needing is not None, documents=job.data.documents)
    candidates, shown_idx = rows, {row["idx"] for row in shown}
    rows = leave_out(candidates, shown, _source(job))  # by text: data sets hold some rows twice
    alike = len(candidates) - len(rows) - sum(row["idx"] in shown_idx for row in candidates)  # beside the demonstrations
    where = "the training rows" if flags.query_file is None else _source(job)
    note = left_out(where, len(candidates), {"with the texts of a demonstration": alike})
    if note:
        say_note(note)
    seed = job.config.run.data_seed
    queries = draw_training_rows(rows, data.max_train_samples, data_seed=seed, exclude=shown)
    if {row["idx"] for row in queries} & {row["idx"] for row in shown}:
        raise AssertionError("a query is a demonstration")
    if needing and not all(map(answered, queries)):
        what = {"label": "labels", "text": "answers"}[job.task.answer]
        raise InputError(f"{needing}: needs the queries' {what}, and some have none; leave it out, or give queries with {what}")
    return queries


def _source(job: Job) -> str:
    """The flag and value that choose the queries, or, of training rows, the demonstrations that are left out of them."""
    files = {
        "query_file": job.config.distillation.query_file,
        "sample_indices_file": job.config.shots.sample_indices_file,
    }
    shots = f"--num_shots {job.config.shots.num_shots}"
    return next((f"--{name} {file}" for name, file in files.items() if file is not None), shots)


def with_context(job: Job, student: MeanScorer) -> dict[str, Any]:
    """Score the student with the context in front; if both do not fit its window, say why in `after_with_context`."""
    try:
        student.check_window([row for rows in job.eval_sets.values() for row in rows])
    except InputError as error:
        return {"after_with_context": {"skipped": str(error)}}
    job.score("after_with_context", student)
    return {}


def teacher_of(
    scorer: MeanScorer,
    queries: Sequence[Row],
    flags: DistillationArguments,
    frozen: Callable[[], AbstractContextManager[torch.nn.Module]] | None = None,
    *,
    counted: bool = True,
) -> Teacher:
    """The teacher of these queries: the mean over all contexts, with `cycle` for query i context i mod m, or each query's own."""
    import numpy as np

    from llmft.distillation.teacher import Teacher

    cycles = flags.context_schedule == "cycle"
    context_of = np.arange(len(queries)) % len(scorer.scorers) if cycles else scorer.context_of(queries)
    return Teacher(
        scorer.scorers,
        queries,
        flags.objective,
        context_of=context_of,
        counted=counted,
        frozen=frozen,
        skip_first=flags.skip_first,
    )


def learn(
    job: Job,
    student: Scorer,
    queries: Sequence[Row],
    teacher: MeanScorer,
    targets: Targets | None,
    reference: dict[str, Scores],
    keeps: Retained | None = None,
) -> Trained:
    """Train the student on the teacher's answers to the queries, or on the gold answers.

    Args:
        teacher: reads along if there are no `targets` and no gold answers are learnt.
        targets: the precomputed answers.
        reference: the teacher's scores of all evaluation sets, to log the divergence from.
        keeps: what the student is to keep; None for nothing.
    """
    from llmft.distillation.trainer import ContextDistillationTrainer, skipping, with_targets
    from llmft.models.parts.adapt import without_adapter
    from llmft.pipelines.on_policy import learn_on_policy
    from llmft.pipelines.training import train
    from llmft.training.ft_trainer import FtTrainer

    flags, answers = job.config.distillation, student.answers
    reading_along = None
    if flags.targets == "soft" and targets is None:
        keeps_start = flags.teacher_model_name_or_path is None and not needs_copy(job)
        frozen = partial(without_adapter, student.model) if keeps_start else partial(nullcontext, teacher.scorers[0].model)
        reading_along = teacher_of(teacher, queries, flags, frozen)
    if flags.on_policy:
        return learn_on_policy(job, student, reading_along, reference, keeps)
    hard = flags.targets == "hard" and not answers.in_words  # a teacher's words are the queries' already
    rows = answers.answered(queries, targets.logprobs) if hard else queries
    gold = flags.targets != "soft" or flags.ce_weight > 0
    examples = answers.examples(student.prompter.prompts(queries), rows, gold=gold)
    if flags.skip_first:
        examples = skipping(examples, flags.skip_first)
    if flags.targets != "soft":
        return train(job, FtTrainer, student, examples, reference=reference)
    learning = {"choices": flags.objective, "answers": answers, "teacher": reading_along, "retained": keeps}
    return train(job, ContextDistillationTrainer, student, with_targets(examples, targets), reference=reference, **learning)
