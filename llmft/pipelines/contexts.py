"""The contexts that queries are asked after: one for all queries, several, or each query's own document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.pipelines.chunking import about_chunks
from llmft.pipelines.loading import load_data, load_start
from llmft.pipelines.prompting import file_text, prompt_format_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.evaluation.scorer import MeanScorer
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row


def load_contexts(
    job: Job, who: str | None = None, draw_queries: Callable[[Job], list[Row]] | None = None
) -> tuple[MeanScorer, list[Row]]:
    """Load data and models, and make the scorer that asks after the contexts that the flags choose.

    Args:
        who: as in `prompt_format_of`; the teacher may be another model.
        draw_queries: gives the queries to be asked in addition to the evaluation rows, from the data of the job.

    Returns:
        The scorer, and the queries. If each row is asked about a document or chunk of its own, the queries and `job.eval_sets`
        name it.

    Raises:
        InputError: something is missing or does not fit together.
    """
    from llmft.pipelines.teachers import teacher_model

    flags = job.config.distillation
    number = flags.num_contexts if flags else 1
    load_data(job, num_contexts=number if job.config.context.reads("demonstrations") else 0)
    queries = draw_queries(job) if draw_queries else []
    check_names(job)
    queries = about_file(job, queries)
    check_documents(job, queries)
    _, tokenizer = load_start(job)
    queries = about_chunks(job, tokenizer, queries)
    loaded = teacher_model(job, flags, tokenizer) if flags else job.loaded
    return context_scorer(job, loaded, who, queries=queries), queries


def about_file(job: Job, queries: Sequence[Row]) -> list[Row]:
    """If the text of --context file is cut into chunks, make queries and evaluation rows (`job.eval_sets`) rows about that text.
    Returns the queries.

    Raises:
        InputError: the text cannot be read.
    """
    if not (job.config.cuts and job.config.context.reads("file")):
        return [*queries]
    context = job.config.context
    name = Path(context.context_dir).resolve().name if context.context_dir else context.context_files[0].name
    job.data = replace(job.data, documents={name: file_text(job)})
    job.eval_sets = {of: [{**row, "document": name} for row in rows] for of, rows in job.eval_sets.items()}
    return [{**row, "document": name} for row in queries]


def check_names(job: Job) -> None:
    """Check that the documents of rows are not meant as names of the files of --context file.

    Raises:
        InputError: one is.
    """
    context, documents = job.config.context, {*job.data.documents.values()}
    named = next((file.name for file in context.context_files if context.reads("file") and file.name in documents), None)
    if named is not None:
        raise InputError(
            f"--document_column {job.config.data.document_column}: holds {quote(named)}, the name of a file, but with --context "
            "file all rows are asked after the same text; use --context document, or drop this flag"
        )


def check_documents(job: Job, queries: Sequence[Row]) -> None:
    """Check that queries and evaluation rows name a document, if each is asked about its own.

    Raises:
        InputError: a row names none.
    """
    rows = [row for rows in (queries, *job.eval_sets.values()) for row in rows]
    without = next((row for row in rows if row.get("document") is None), None)
    if job.config.by_document and without is not None:
        raise InputError(
            f"--context document: row {without['idx']} is about no document; name their column with --document_column, or give "
            "--context file --context_file"
        )


def context_scorer(
    job: Job,
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    who: str | None = None,
    *,
    queries: Sequence[Row] = (),
) -> MeanScorer:
    """The scorer that asks a model after the contexts that the flags choose.

    Args:
        who: as in `prompt_format_of`.
        queries: rows to be asked about in addition to the evaluation rows.

    Raises:
        InputError: the prompts and the answers do not go together.
    """
    from llmft.evaluation.scorer import DocumentScorer, MeanScorer

    calibrate = job.config.calibration.calibrate
    if job.config.by_document:
        documents = tuple(dict.fromkeys(row["document"] for rows in (queries, *job.eval_sets.values()) for row in rows))
        prompt_format = prompt_format_of(job, who)
        instruction = prompt_format.document  # that of a file, as it is
        in_front = instruction + prompt_format.separator if instruction else ""
        formats = [replace(prompt_format, document=in_front + job.data.documents[name]) for name in documents]
        shots = job.demonstrations
        return DocumentScorer(
            tuple(job.scorer(*loaded, one, demonstrations=shots, calibrate=calibrate) for one in formats), documents=documents
        )
    contexts = job.contexts or [[]] * (job.config.distillation.num_contexts if job.config.distillation else 1)
    scorers = [
        job.scorer(*loaded, prompt_format_of(job, who, number), demonstrations=shots, calibrate=calibrate)
        for number, shots in enumerate(contexts)
    ]
    return MeanScorer(tuple(scorers))
