"""In-context learning: k demonstrations in front of every query, no training. `--num_shots 0` asks without context."""

from __future__ import annotations

from collections.abc import Sequence

from llmft.arguments import CalibrationArguments, DataArguments, DemonstrationArguments, ModelArguments, RunArguments
from llmft.pipelines.prepare import prepare

GROUPS = (ModelArguments, DataArguments, DemonstrationArguments, CalibrationArguments, RunArguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a model as it is, in-domain and out-of-domain.

    Raises:
        InputError: the arguments are unusable.
    """
    job = prepare("icl", GROUPS, argv, description=__doc__)
    if job is None:
        return
    from llmft.evaluation.score import Asker

    prompt_format = job.prompt_format()
    with job.meter.phase("load"):
        model, tokenizer = job.load()
        asker = Asker.create(
            model,
            tokenizer,
            prompt_format,
            sample=job.data.train[0],
            demonstrations=job.demonstrations,
            calibrate=job.arguments(CalibrationArguments).calibrate,
            queries_per_row=job.arguments(RunArguments).per_device_eval_batch_size,
        )
        job.begin(asker)
    scores = job.score("icl", asker)
    in_domain = scores[job.task.name]
    job.finish({"tokens_per_query": {"icl": in_domain.tokens_per_query}})
