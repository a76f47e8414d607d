"""What stands in front of queries: one context for all, several, or each query's own document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.pipelines.prompting import prompt_format_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.evaluation.scorer import MeanScorer
    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row


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

    if job.config.context.reads("document"):
        named = dict.fromkeys(row.get("document") for rows in (queries, *job.eval_sets.values()) for row in rows)
        documents = tuple(name for name in named if name is not None)
        if not documents:
            raise InputError(
                f"--context document: rows of {job.task.name} name no document; name their column with --document_column, or "
                "give --context file --context_file"
            )
        prompt_format = prompt_format_of(job, who)
        formats = [replace(prompt_format, document=job.data.documents[name]) for name in documents]
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
