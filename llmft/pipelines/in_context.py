"""In-context learning: k demonstrations in front of every query, no training. `--num_shots 0` asks without context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmft.arguments.data import CalibrationArguments, DataArguments, DemonstrationArguments
from llmft.arguments.methods import InContextArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import RunArguments
from llmft.pipelines.job import Job
from llmft.pipelines.loading import load_all
from llmft.pipelines.prepare import prepare
from llmft.pipelines.process import run_jobs
from llmft.pipelines.prompt_notes import say_prompts
from llmft.pipelines.prompting import prompt_format_of
from llmft.pipelines.upstream_csv import append_row, upstream_row

GROUPS = (ModelArguments, DataArguments, DemonstrationArguments, CalibrationArguments, InContextArguments, RunArguments)


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
    prompt_format = prompt_format_of(job)
    with job.meter.phase("load"):
        model, tokenizer = load_all(job)
        calibrate = job.config.calibration.calibrate
        scorer = job.scorer(model, tokenizer, prompt_format, demonstrations=job.demonstrations, calibrate=calibrate)
        job.check_prompts(scorer)
        job.begin()
        say_prompts(job, {"": scorer})
    scores = job.score("icl", scorer)
    if job.record.writes:
        append_row(job, upstream_row(job, scorer, scores))
    in_domain = scores[job.task.name]
    job.finish({"tokens_per_query": {"icl": in_domain.tokens_per_query}})
