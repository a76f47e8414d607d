"""Context distillation: a frozen teacher reads a context and a query; the student reads only the query and learns to give the
same answer. Queries are training rows without their labels, unless a flag needs the labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.arguments.context import ChunkArguments, ContextArguments, WritingArguments
from llmft.arguments.data import CalibrationArguments, DataArguments, DemonstrationArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.methods import AdapterArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import DistillationRunArguments
from llmft.errors import InputError, quote
from llmft.pipelines.comparison import (
    compare,
    mean_losses,
    say_how_far,
    say_whether_context_helps,
    say_whether_out_of_domain_suffers,
)
from llmft.pipelines.contexts import load_contexts
from llmft.pipelines.distillation_checks import check_distillation, check_support, needs_copy
from llmft.pipelines.job import Job
from llmft.pipelines.learning import learn, teacher_of
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
from llmft.tasks.texts import THOUGHT, THOUGHT_IDS, answered, missing, without_thought

if TYPE_CHECKING:
    from llmft.cost.phases import Phase
    from llmft.distillation.targets import Targets
    from llmft.evaluation.answers import Answers
    from llmft.evaluation.scorer import MeanScorer, Scorer
    from llmft.evaluation.scores import Scores
    from llmft.pipelines.elsewhere import Elsewhere
    from llmft.pipelines.retention import Retention
    from llmft.pipelines.training import Trained
    from llmft.prompts.render import PromptFormat

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


@dataclass
class Loaded:
    """What a run has loaded. As the run goes on, queries get answers, the student gets trainable weights, and the teacher
    may drop its model.

    Attributes:
        queries: what the student learns from.
        retain_rows: the prompts of `--retain_file`.
        retention: the other tasks that the student is asked about.
        elsewhere: the prompts that have nothing to do with the context.
    """

    teacher: MeanScorer
    student: Scorer
    queries: list[Row]
    retain_rows: list[Row]
    retention: Retention
    elsewhere: Elsewhere


def distil(job: Job) -> None:
    """One run."""
    from llmft.models.reading.kv_cache import kv_bytes_per_token
    from llmft.pipelines.retaining import answer_retained, retained
    from llmft.pipelines.training import trainable

    check_distillation(job)
    with job.meter.phase("load"):
        loaded = load(job)
    with job.meter.phase("teacher") as phase:
        loaded.queries, asked = with_answers(job, loaded, phase)
        targets, prompts = precomputed(job, loaded, phase)
        asked["teacher_prompts"] += prompts
    scores = score_before(job, loaded)
    token_bytes = {"teacher": kv_bytes_per_token(loaded.teacher.scorers[0].model)}
    loaded.teacher = teacher_while_training(job, loaded)
    own_cache = job.cache if job.config.distillation.teacher_model_name_or_path is None else None
    kept = answer_retained(job, loaded.student, loaded.retain_rows, own_cache)
    context_ids = loaded.teacher.scorers[0].prompter.context_ids
    loaded.student = loaded.student.with_model(trainable(job, loaded.student.model, context_ids=context_ids))
    trained = learn(
        job, loaded.student, loaded.queries, loaded.teacher, targets, scores["teacher"], retained(job, loaded.student, *kept)
    )
    scores |= trained.scores
    token_bytes["student"] = kv_bytes_per_token(loaded.student.model)
    metrics = measure(job, loaded, scores, token_bytes, trained) | asked | {"contexts": contexts(job, loaded.teacher)}
    advise(job, loaded.student.answers, scores, metrics, trained)
    job.finish(metrics, trained.log, prompts=prompt_formats(job, loaded))


def load(job: Job) -> Loaded:
    """Load whatever the run needs.

    Raises:
        InputError: something is missing or does not fit together; past this, the run has a folder.
    """
    from llmft.models.parts.adapt import trained_weights
    from llmft.pipelines.elsewhere import Elsewhere, context_texts
    from llmft.pipelines.on_policy import check_follows
    from llmft.pipelines.retaining import draw_retained, retained_rows
    from llmft.pipelines.retention import Retention, retention_tasks
    from llmft.pipelines.teachers import check_sizes, with_cache
    from llmft.training.stop_at_nan import check_start

    flags, calibrate = job.config.distillation, job.config.calibration.calibrate
    student_format = prompt_format_of(job, "student")
    check_support(flags.objective, prompt_format_of(job, "teacher"), student_format, calibrate=calibrate)
    retain_rows = retained_rows(job)
    teacher, queries = load_contexts(job, "teacher", draw_queries)
    model, tokenizer = job.loaded
    part = job.config.trained
    student = job.scorer(model, tokenizer, student_format, reserved=part.virtual_tokens)
    if dropped := [stop for stop in student.answers.stops if stop not in teacher.answers.stops]:
        ends = " or ".join(map(quote, dropped))
        say_note(f"the student's answers do not end with {ends} here, since its teacher's do not; --stop ends both's")
    student = replace(student, answers=student.answers.ending_as(teacher.answers))
    reserved = part.virtual_tokens or len(teacher.scorers[0].prompter.context_ids) * part.use_cartridge
    opens = student.prompter.opens and not part.use_cartridge  # a cartridge has the opening token already
    virtual = max(student.prompter.virtual, reserved)
    after = replace(student, prompter=replace(student.prompter, virtual=virtual, opens=opens))  # as it is asked once trained
    retention = Retention.create(retention_tasks(flags.retention_tasks, job.task.name), job, model, tokenizer, reserved=reserved)
    learnt = queries
    if student.answers.in_words and flags.answers != "given" and flags.targets != "gold":  # their own answers may be long
        learnt = [{**row, "answer": (), "answer_ids": None} for row in queries]
    job.check_prompts(teacher, student, after, train_rows=learnt)
    teacher = thinking(teacher, flags.answer_pattern)
    check_aligned(teacher, student, [*queries, *(row for rows in job.eval_sets.values() for row in rows)])
    check_sizes(job, teacher)
    check_start(job.model_name, trained_weights(model, part))
    check_follows(job, teacher.scorers[0].model)
    after.prompter.check_window(retain_rows)
    retain_rows = draw_retained(job, retain_rows, len(queries))
    teacher = with_cache(job, teacher)
    job.cache = teacher.scorers[0].cache
    job.begin()
    say_prompts(job, {"teacher": teacher.scorers[0], "student": student}, queries, trained_as="queries that are learnt from")
    texts = [text for scorer in teacher.scorers for text in context_texts(scorer.prompter)]
    return Loaded(teacher, student, queries, retain_rows, retention, Elsewhere.create(job, student.answers, texts))


def draw_queries(job: Job) -> list[Row]:
    """Training rows, or rows of --query_file, that no context shows.

    Raises:
        InputError: there are fewer than the flags ask for, or they lack labels that a flag needs.
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
    alike = len(candidates) - len(rows) - sum(row["idx"] in shown_idx for row in candidates)  # besides the demonstrations
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
    if flags.answers != "given" or flags.support == "sampled":
        return [*map(without_thought, queries)]
    unread = sum(not missing(row.get(THOUGHT)) and THOUGHT_IDS not in row for row in queries)
    if unread:
        say_note(
            f"{where}: the teacher does not read the {THOUGHT} of {unread} of {len(queries)} queries, which have no {THOUGHT_IDS}"
        )
    return queries


def _source(job: Job) -> str:
    """The flag that names the queries' file, or else the one that chooses the demonstrations, with its value."""
    files = {
        "query_file": job.config.distillation.query_file,
        "sample_indices_file": job.config.shots.sample_indices_file,
    }
    shots = f"--num_shots {job.config.shots.num_shots}"
    return next((f"--{name} {file}" for name, file in files.items() if file is not None), shots)


def with_answers(job: Job, loaded: Loaded, phase: Phase) -> tuple[list[Row], dict[str, Any]]:
    """Have the teacher write answers to the queries, if the flags ask for that.

    Returns:
        The queries that are learnt from, and what `metrics.json` gets: `teacher_prompts`, the number of queries answered, and
        `answer_pattern` if there is one.

    Raises:
        InputError: --answer_pattern matches none of the answers.
    """
    answers, asked = loaded.teacher.answers, {"teacher_prompts": 0}
    if not writes_answers(job, answers):
        return loaded.queries, asked
    queries = loaded.teacher.answered(loaded.queries, phase)
    asked["teacher_prompts"] = len(queries)
    if job.config.distillation.answer_pattern is not None:
        queries, asked["answer_pattern"] = split_answers(answers, queries)
        job.train_idx = [row["idx"] for row in queries]  # for messages about a batch
    keep_answers(job, loaded.student.answers, queries)
    return queries, asked


def precomputed(job: Job, loaded: Loaded, phase: Phase) -> tuple[Targets | None, int]:
    """The teacher's distributions, and how many prompts it reads for them; None and 0 if it reads along, or if they are not what
    the student learns.

    Raises:
        InputError: they do not fit in memory.
    """
    from llmft.pipelines.teachers import check_memory

    flags, answers = job.config.distillation, loaded.student.answers
    learnt = flags.targets == "soft" or (flags.targets == "hard" and not answers.in_words)
    if flags.reads_along or not learnt:
        return None, 0
    counted = not writes_answers(job, answers)  # writing has counted the queries already
    teacher = teacher_of(loaded.teacher, loaded.queries, flags, counted=counted)
    check_memory(teacher)
    return teacher.precompute(phase), teacher.prompts


def score_before(job: Job, loaded: Loaded) -> dict[str, dict[str, Scores]]:
    """Score the teacher, and the student before training; warn if the context does not help."""
    teacher, student = loaded.teacher, loaded.student
    scores = {"teacher": job.score("teacher", teacher)}
    if student.answers.in_words:
        job.references = references(job, teacher, scores["teacher"])
    scores["before"] = job.score("before", student)
    loaded.elsewhere.before(student)
    loaded.elsewhere.score("teacher", teacher.first)
    if job.config.distillation.targets != "gold":
        say_whether_context_helps(job, student.answers.headline)
    loaded.retention.score("before", student.model)
    return scores


def teacher_while_training(job: Job, loaded: Loaded) -> MeanScorer:
    """The teacher, with the model that it needs from now on."""
    if not job.config.distillation.reads_along:  # its answers are all that training needs: free the memory of another model
        return loaded.teacher.with_model(loaded.student.model)
    return loaded.teacher.with_model(copy.deepcopy(loaded.student.model)) if needs_copy(job) else loaded.teacher


def measure(
    job: Job, loaded: Loaded, scores: dict[str, dict[str, Scores]], token_bytes: Mapping[str, int | None], trained: Trained
) -> dict[str, Any]:
    """Score the trained student on everything but its own evaluation sets.

    Args:
        scores: of all stages.
        token_bytes: bytes of a token's keys and values, for teacher and student.

    Returns:
        What `metrics.json` gets in addition to scores.
    """
    student = loaded.student
    loaded.retention.score("after", student.model)
    loaded.elsewhere.score("after", student)
    loaded.elsewhere.keep()
    metrics = (
        compare(job, student.answers, scores, token_bytes)
        | trained.metrics
        | loaded.retention.change(job.record.stages)
        | loaded.elsewhere.metrics(scores)
    )
    if job.config.distillation.evaluate_with_context:
        metrics |= with_context(job, loaded.teacher.with_model(student.model))
    return metrics


def contexts(job: Job, teacher: MeanScorer) -> dict[str, Any]:
    """What `metrics.json` says about the contexts."""
    return {
        "kinds": list(job.config.context.contexts),
        "number": len(teacher.scorers),
        "schedule": job.config.distillation.context_schedule,
        "demonstrations": sum(map(len, job.contexts)),
    }


def with_context(job: Job, student: MeanScorer) -> dict[str, Any]:
    """Score the student with the context in its prompts; if that does not fit its window, `after_with_context` says why."""
    try:
        student.check_window(student.answers.as_scored([row for rows in job.eval_sets.values() for row in rows]))
    except InputError as error:
        return {"after_with_context": {"skipped": str(error)}}
    job.score("after_with_context", student)
    return {}


def advise(
    job: Job, answers: Answers, scores: Mapping[str, Mapping[str, Scores]], metrics: Mapping[str, Any], trained: Trained
) -> None:
    """Say if training has done harm, or next to nothing."""
    say_whether_out_of_domain_suffers(job.data.out_of_domain, scores["before"], scores["after"], answers.headline)
    flags = job.config.distillation
    if job.record.writes and flags.targets != "gold":  # a student of gold answers is not meant to be like the teacher
        losses = mean_losses(trained.log) if flags.learns_kl(in_words=answers.in_words) else []
        for name in job.data.in_domain:  # before the table, the last thing that a sweep shows of a run
            say_how_far(name, metrics["kl"]["before"][name], metrics["kl"]["after"][name], losses)


def prompt_formats(job: Job, loaded: Loaded) -> dict[str, list[PromptFormat]]:
    """`teacher` and `student` -> the prompt format of each context; formats for documents differ only in the document."""
    scorers = loaded.teacher.scorers[: job.config.distillation.num_contexts]
    return {
        "teacher": [scorer.prompter.prompt_format for scorer in scorers],
        "student": [loaded.student.prompter.prompt_format],
    }
