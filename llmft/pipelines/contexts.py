"""What stands in front of queries: one context for all, several, or each query's own document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.pipelines.prompting import file_text, prompt_format_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.evaluation.scorer import MeanScorer
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row


def about_file(job: Job, queries: Sequence[Row] = ()) -> list[Row]:
    """The queries, and as `job.eval_sets` the evaluation rows, as rows about the one text of --context file, where that is cut
    into chunks; else as they are.

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


def named_documents(job: Job, queries: Sequence[Row] = ()) -> tuple[str, ...]:
    """The documents that queries and evaluation rows are asked behind; none where these are no context.

    Raises:
        InputError: a row has none.
    """
    if not job.config.by_document:
        return ()
    rows = [row for rows in (queries, *job.eval_sets.values()) for row in rows]
    without = next((row for row in rows if row.get("document") is None), None)
    if without is not None:
        raise InputError(
            f"--context document: row {without['idx']} is about no document; name their column with --document_column, or give "
            "--context file --context_file"
        )
    return tuple(dict.fromkeys(row["document"] for row in rows))


def context_scorer(
    job: Job,
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    who: str | None = None,
    *,
    queries: Sequence[Row] = (),
    calibrate: bool = False,
) -> MeanScorer:
    """The way of asking a model behind the contexts that the flags ask for.

    Args:
        who: as in `prompt_format_of`.
        queries: rows beside the evaluation rows that will be asked about.

    Raises:
        InputError: the prompts and the answers do not go together, or there is no document.
    """
    from llmft.evaluation.scorer import DocumentScorer, MeanScorer

    documents = named_documents(job, queries)
    if documents:
        prompt_format = prompt_format_of(job, who)
        instruction = prompt_format.document  # one of a file, taken as it is
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
