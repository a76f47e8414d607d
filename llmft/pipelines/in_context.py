"""In-context learning: every query is asked after k demonstrations, or after another context, without training. `--num_shots 0`
asks without a context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmft.arguments.context import ChunkArguments, ContextArguments, WritingArguments
from llmft.arguments.data import CalibrationArguments, DataArguments, DemonstrationArguments
from llmft.arguments.methods import InContextArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import RunArguments
from llmft.errors import InputError
from llmft.pipelines.contexts import load_contexts
from llmft.pipelines.job import Job
from llmft.pipelines.prepare import prepare
from llmft.pipelines.process import run_jobs
from llmft.pipelines.prompt_notes import say_cut, say_prompts
from llmft.pipelines.prompt_sizes import prompt_sizes
from llmft.pipelines.prompting import prompt_format_of
from llmft.pipelines.upstream_csv import append_row, csv_of, frames_of, upstream_row

GROUPS = (
    ModelArguments,
    DataArguments,
    ContextArguments,
    ChunkArguments,
    DemonstrationArguments,
    WritingArguments,
    CalibrationArguments,
    InContextArguments,
    RunArguments,
)


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Evaluate a model as it is, in-domain and out-of-domain, once for each data seed.

    Returns:
        The folders of the runs.

    Raises:
        InputError: the arguments are unusable.
    """
    return run_jobs(prepare("icl", GROUPS, argv, description=__doc__), evaluate)


def evaluate(job: Job) -> None:
    """One run: one draw of demonstrations."""
    from llmft.models.reading.kv_cache import kv_bytes_per_token

    if job.config.context.reads("label"):
        raise InputError("--context label: is only for the teacher of distill.py; choose another")
    prompt_format_of(job)
    if job.record.writes and job.task.answer == "label":
        frames_of(csv_of(job))  # raises errors early
    with job.meter.phase("load"):
        scorer, _ = load_contexts(job)
        job.check_prompts(scorer)
        job.begin()
        say_prompts(job, {"": scorer.scorers[0]})
    scores = job.score("icl", scorer)
    say_cut(job, scores)
    if job.record.writes and job.task.answer == "label":
        append_row(job, upstream_row(job, scorer.scorers[0], scores))
    tokens = {"icl": scores[job.task.name].tokens_per_query}
    job.finish(prompt_sizes(tokens, {"icl": kv_bytes_per_token(scorer.scorers[0].model)}))
