"""What a teacher writes: answers to the queries, to learn from, and to the evaluation rows, to compare students with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.pipelines.prompting import delimiter_of
from llmft.runs.notes import say_note
from llmft.tasks.rows import SECOND, left_out
from llmft.tasks.texts import HISTORY, THOUGHT, THOUGHT_IDS, document_of, with_written

if TYPE_CHECKING:
    from llmft.arguments.data import DataArguments
    from llmft.distillation.reference import TeacherReference
    from llmft.evaluation.answer_part import AnswerPart
    from llmft.evaluation.answers import Answers
    from llmft.evaluation.scorer import MeanScorer
    from llmft.evaluation.scores import Scores
    from llmft.evaluation.texts import Texts
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row

TEACHER_ANSWERS = "teacher_answers.jsonl"
"""The file with the teacher's answers in a run's folder."""


def writes_answers(job: Job, answers: Answers) -> bool:
    """Whether the teacher has to write the answers to the queries."""
    flags = job.config.distillation
    return answers.in_words and (flags.targets == "hard" or (flags.targets == "soft" and flags.answers == "teacher"))


def thinking(teacher: MeanScorer, pattern: str | None) -> MeanScorer:
    """The teacher; with --answer_pattern, only the part of an answer that it matches counts."""
    if pattern is None:
        return teacher
    compiled = re.compile(pattern)
    return replace(
        teacher,
        scorers=tuple(replace(scorer, answers=replace(scorer.answers, pattern=compiled)) for scorer in teacher.scorers),
    )


def split_answers(answers: Texts, queries: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """The queries whose answers end in a part that --answer_pattern matches, with `answer_ids` of that part and `thought_ids` of
    everything before it. Says how many others there are, and how many parts begin within a token.

    Returns:
        Also the counts, for the record.

    Raises:
        InputError: there is no such query.
    """
    flag, parts = f"--answer_pattern {answers.pattern.pattern}", [answers.part(row["answer_ids"]) for row in queries]
    found = [(row, part) for row, part in zip(queries, parts, strict=True) if part is not None]
    learnt = [(row, part) for row, part in found if part.ends_answer]
    if not learnt:
        first = quote(answers.written(queries[0]["answer_ids"]))
        none = f"none of the teacher's {len(queries)} answers ends in a match"
        raise InputError(f"{flag}: {none}, the first being {first}; change it")
    unmatched, more = len(queries) - len(found), len(found) - len(learnt)
    reasons = {f"without a match of {flag}": unmatched, "with more text after it": more}
    if note := left_out("the teacher's answers", len(queries), reasons):
        say_note(note)
    within = [row["answer_ids"][part.begin] for row, part in learnt if not part.whole_token]
    if within:
        token = quote(answers.prompter.tokenizer.decode(within[:1]))
        say_note(f"{flag}: {len(within)} matches begin within a token, the first within {token}; the whole token is learnt")
    counts = {"learnt": len(learnt), "unmatched": unmatched, "more_behind": more, "within_token": len(within)}
    return [cut(row, part) for row, part in learnt], {"written": len(queries), **counts}


def cut(row: Row, part: AnswerPart) -> Row:
    """The row with only a part of its answer in `answer_ids`; the tokens before that part are its `thought_ids`."""
    ids = row["answer_ids"]
    return {**row, THOUGHT_IDS: ids[: part.begin], "answer_ids": ids[part.begin :]}


def keep_answers(job: Job, answers: Answers, queries: Sequence[Row]) -> None:
    """Write the teacher's answers to a file for people to read; say how many may have been cut off."""
    from llmft.runs.store import write_json_lines

    if not job.record.writes:
        return
    text = answers.text if delimiter_of(job) == "" else answers.written  # white space in front belongs to an answer of code
    lines = [
        {
            **whereabouts(row),
            **({HISTORY: [turn._asdict() for turn in row[HISTORY]]} if row.get(HISTORY) else {}),
            **_question(row, job.config.data),
            **({THOUGHT: answers.text(row[THOUGHT_IDS]), THOUGHT_IDS: row[THOUGHT_IDS]} if THOUGHT_IDS in row else {}),
            "answer": text(row["answer_ids"]),
            "answer_ids": row["answer_ids"],
        }
        for row in queries
    ]
    write_json_lines(job.record.path / TEACHER_ANSWERS, lines)
    say_how_many_are_cut(queries, job.config.writing.max_new_tokens)


def _question(row: Row, data: DataArguments) -> dict[str, str]:
    """A row's question as in files of questions: two texts are in the columns that the flags name."""
    if row["text2"] is None:
        return {"query": row["text1"]}
    return {data.text1_column: row["text1"], data.text2_column or SECOND: row["text2"]}


def say_how_many_are_cut(queries: Sequence[Row], limit: int) -> None:
    """Say how many of the teacher's answers have as many tokens as they may."""
    cut = sum(len([*row.get(THOUGHT_IDS, ()), *row["answer_ids"]]) == limit for row in queries)
    if cut:
        say_note(f"{cut} of {len(queries)} of the teacher's answers reach --max_new_tokens {limit} and may be cut off there")


def whereabouts(row: Row) -> dict[str, str | None]:
    """The document that a row is about and the place of its chunk, if there are chunks, as in files of questions."""
    chunk = {"chunk": row["chunk"]} if row.get("chunk") is not None else {}
    return {"document": row["document"] and document_of(row["document"]), **chunk}


def references(job: Job, teacher: MeanScorer, scores: Mapping[str, Scores]) -> dict[str, TeacherReference]:
    """The teacher's distributions along its own answers to the evaluation rows: along the part that --answer_pattern matches, or
    along the whole answer if nothing matches."""
    from llmft.distillation.reference import TeacherReference
    from llmft.distillation.teacher import likeliest_along

    made = {}
    for name, rows in job.eval_sets.items():
        written = [*map(with_written, rows, scores[name]["answer_ids"])]
        parts = [teacher.answers.part(row["answer_ids"]) for row in written]
        answered = [row if part is None else cut(row, part) for row, part in zip(written, parts, strict=True)]
        with job.meter.phase("reference", "teacher", name) as phase:  # no part of what a query costs
            targets = likeliest_along(teacher, answered, phase)
        made[name] = TeacherReference(answered, targets.by_query())
    return made
