"""Run each job once, whatever other processes do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmft.cost.meter import OTHER
from llmft.errors import InputError
from llmft.pipelines.hub import push
from llmft.pipelines.job import Job
from llmft.runs.launch import this_process
from llmft.runs.program import oom_as_input_error
from llmft.runs.ranks import leave_together
from llmft.runs.session import session


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], None]) -> list[Path]:
    """Do the work of every job that no process has finished. Input that only one data seed cannot use does not keep the others
    from their results. Students that are to be pushed, those of earlier runs too, are pushed last, outside of any lock.

    Returns:
        The folders of all runs.

    Raises:
        InputError: after all others are done, naming what failed.
    """
    failed, first, loaded_by, spent = [], None, None, []
    for job in jobs:
        try:
            output_dir, count_flops = job.config.run.output_dir, job.config.run.count_flops
            with oom_as_input_error(no_room(job)), session(job.record, output_dir, count_flops=count_flops) as meter:
                if meter is not None:
                    job.first, job.loaded_by, job.meter = first, loaded_by, meter
                    meter.add(spent)
                    first = job if loaded_by is None else first
                    work(job)
                    loaded_by, spent = loaded_by or job.record.path, []
        except InputError as error:
            if len(jobs) == 1 or this_process().world_size > 1:  # other ranks may not have failed: they cannot go on together
                raise
            failed.append(f"--data_seed {job.config.run.data_seed}: {error}")
            if loaded_by is None:  # what it has loaded is used, and paid for, by the next
                spent = [phase for phase in job.meter.as_dict()["phases"] if phase["kind"] in ("load", OTHER)]
    if failed:
        raise InputError(f"{len(failed)} of {len(jobs)} data seeds failed: " + "; ".join(failed))
    pushed = [job for job in jobs if job.config.run.push_to_hub]
    if pushed:
        leave_together()  # an upload may take longer than ranks wait for each other
        for job in pushed:
            push(job)
    return [job.record.path for job in jobs]


def no_room(job: Job) -> str:
    """What is said where the device has no room for a batch or the model."""
    run = job.config.run
    if job.config.trained is None:
        return (
            f"--model_name_or_path {job.model_name}: the device has no room for the model and what it reads; use --torch_dtype "
            "bfloat16, a lower --max_batch_tokens, or a smaller model"
        )
    return (
        f"--per_device_train_batch_size {run.per_device_train_batch_size}: the device has no room for such batches of this "
        "model, or for the model; lower it (and raise --gradient_accumulation_steps), or use a smaller model"
    )
