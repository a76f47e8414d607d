"""What a teacher writes: answers to the queries, and to the evaluation rows those that students are compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmft.runs.notes import say_note
from llmft.tasks.texts import document_of, query_text

if TYPE_CHECKING:
    from llmft.distillation.reference import TeacherReference
    from llmft.evaluation.answers import Answers
    from llmft.evaluation.scorer import MeanScorer
    from llmft.evaluation.scores import Scores
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row

TEACHER_ANSWERS = "teacher_answers.jsonl"
"""File of a run with what its teacher has written."""


def writes_answers(job: Job, answers: Answers) -> bool:
    """Whether the teacher has to write the answers to the queries."""
    flags = job.config.distillation
    return answers.in_words and (flags.targets == "hard" or (flags.targets == "soft" and flags.answers == "teacher"))


def keep_answers(job: Job, answers: Answers, queries: Sequence[Row]) -> None:
    """Keep what the teacher has written for people to read; says how many answers were cut."""
    from llmft.runs.store import whole_file

    if not job.record.writes:
        return
    lines = [
        {
            **whereabouts(row),
            "query": query_text(row),
            "answer": answers.written(row["answer_ids"]),
            "answer_ids": row["answer_ids"],
        }
        for row in queries
    ]
    with whole_file(job.record.path / TEACHER_ANSWERS) as aside:
        aside.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    limit = job.config.writing.max_new_tokens
    cut = sum(len(row["answer_ids"]) == limit for row in queries)
    if cut:
        say_note(f"{cut} of {len(queries)} of the teacher's answers have all of --max_new_tokens {limit}, and may be cut there")


def whereabouts(row: Row) -> dict[str, str | None]:
    """The document that a row is about, and where it is read in chunks the place of its own, as files of questions have them."""
    chunk = {"chunk": row["chunk"]} if row.get("chunk") is not None else {}
    return {"document": row["document"] and document_of(row["document"]), **chunk}


def references(job: Job, teacher: MeanScorer, scores: Mapping[str, Scores]) -> dict[str, TeacherReference]:
    """The teacher's distributions along its own answers to the evaluation rows."""
    from llmft.arguments.objective import Objective
    from llmft.distillation.reference import TeacherReference
    from llmft.distillation.teacher import Teacher
    from llmft.models.parts.head import logits_width

    objective = Objective(support="topk", topk=min(Objective.topk, logits_width(teacher.scorers[0].model)))
    made = {}
    for name, rows in job.eval_sets.items():
        answered = [{**row, "answer_ids": ids} for row, ids in zip(rows, scores[name]["answer_ids"], strict=True)]
        with job.meter.phase("evaluate", "teacher", name) as phase:
            contexts = teacher.context_of(rows)
            targets = Teacher(teacher.scorers, answered, objective, context_of=contexts, counted=False).precompute(phase)
        made[name] = TeacherReference(answered, targets.by_query())
    return made
