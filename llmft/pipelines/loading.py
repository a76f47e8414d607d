"""Loads what a run needs: rows, the draws from them, and models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmft.errors import InputError, quote
from llmft.models.load import load_model
from llmft.prompts.demonstrations import draw_contexts, draw_eval_rows
from llmft.runs.notes import say_note
from llmft.tasks.listed import listed_demonstrations
from llmft.tasks.load import load_task
from llmft.tasks.texts import without_thought

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.pipelines.job import Job
    from llmft.tasks.schema import Row


def load_all(job: Job, *, with_demonstrations: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load data and model, on the requested device; draw evaluation rows and, if used, demonstrations.

    Raises:
        InputError: something is missing or does not fit together.
    """
    load_data(job, num_contexts=1 if with_demonstrations else 0)
    return load_start(job)


def load_data(job: Job, *, num_contexts: int) -> None:
    """Load all rows; draw evaluation rows and the demonstrations of each context.

    Raises:
        InputError: rows are missing, or fewer than the draws need; or programs do not run with the right answers, or metrics fail
            on these.
    """
    data, run = job.config.data, job.config.run
    if job.first is not None and job.first.data is not None and job.task.splits is None:
        job.data = job.first.data
    else:
        job.data = load_task(
            job.task,
            variant=data.task_variant,
            data_seed=run.data_seed,
            data_dir=data.data_dir,
            cache_dir=data.dataset_cache_dir,
        )
    job.eval_sets = {
        name: [*map(without_thought, draw_eval_rows(rows, data.max_eval_samples))] for name, rows in job.data.eval_sets.items()
    }
    job.contexts = _draw_contexts(job, num_contexts) if num_contexts else []
    try_text_metrics(job)
    if data.run_code is not None:
        from llmft.evaluation.running import check_runs

        check_runs(data.run_code, [row for rows in job.eval_sets.values() for row in rows])


def try_text_metrics(job: Job) -> None:
    """Compute the metrics of text answers for the right answers of a few evaluation rows, before models are loaded.

    Raises:
        InputError: a metric fails on them.
    """
    if job.task.answer != "text":
        return
    from llmft.evaluation.metrics import compute_metric

    for name, rows in job.eval_sets.items():
        few = [row["answer"] for row in rows if row["answer"]][:8]
        for metric in job.task.metrics_of(name) if few else ():
            compute_metric(metric, "text", [accepted[0] for accepted in few], [[*accepted] for accepted in few])


def load_start(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer, on the requested device.

    Raises:
        InputError: there is no such model, or it lacks the part to be trained.
    """
    from llmft.models.parts.adapt import check_part, count_trainable

    if job.first is not None and job.first.loaded is not None:
        job.loaded = job.first.loaded
    else:
        model = job.config.model
        loaded, tokenizer = load_other_model(
            job,
            job.model_name,
            "--model_name_or_path",
            revision=model.model_revision,
            gguf_file=model.gguf_file,
            tokenizer_name=model.tokenizer_name,
        )
        if job.config.trained is not None:
            from llmft.models.parts.saving import start_of

            loaded = start_of(loaded, job.model_name)
            check_part(loaded, job.config.trained)
        job.loaded = loaded, tokenizer
        _say_precision(job, loaded)
    job.model_weights = count_trainable(job.loaded[0]).total
    return job.loaded


def _say_precision(job: Job, model: PreTrainedModel) -> None:
    """Print a note if training is not in the half precision asked for, or the processor has no support for that in use."""
    import torch

    from llmft.models.precision import instructions_for
    from llmft.models.wrapping import bare_model

    run, precision = job.config.run, bare_model(model).dtype
    if run.fp16 and job.config.trained is not None and run.deepspeed is None and run.device.type == "cpu":
        say_note("--fp16: training on a CPU does not cast to float16; use --bf16 for half precision")  # accelerate ignores it
    elif run.fp16 or run.bf16:
        precision = torch.bfloat16 if run.bf16 else torch.float16
    if run.device.type == "cpu" and precision.itemsize == 2 and instructions_for(precision) is None:
        name = str(precision).removeprefix("torch.")
        say_note(
            f"this processor has no instructions for {name}: reading takes several times as long as in float32, training tens of "
            "times (docs/costs.md#half-precision-on-a-cpu); it only saves memory"
        )


def load_other_model(
    job: Job, name: str, flag: str, *, revision: str, gguf_file: str | None = None, tokenizer_name: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model without any trained part, loaded according to the flags. Prints what ends the answers of a run's student.

    Args:
        flag: the flag that names it, for messages.

    Raises:
        InputError: there is no such model.
    """
    from llmft.models.identity import settings_of_student
    from llmft.models.reading.reader import agreement_of
    from llmft.models.wrapping import bare_model

    model = job.config.model
    student = settings_of_student(name, revision, model.cache_dir)
    loaded, tokenizer = load_model(
        name,
        dtype=model.torch_dtype or _default_dtype(job, student.get("dtype", "float32"), f"{flag} {name}"),
        attn_implementation=model.attn_implementation,
        revision=revision,
        cache_dir=model.cache_dir,
        gguf_file=gguf_file,
        tokenizer_name=tokenizer_name,
        trust_remote_code=model.trust_remote_code,
        flag=flag,
    )
    loaded = loaded.to(job.config.run.device)
    stops = bare_model(loaded).learnt_stops = tuple(student.get("stop", ()))
    if stops and job.task.answer == "text" and job.config.writing.stops is None:
        ends = " or ".join(map(quote, stops))
        say_note(f"{flag} {name}: answers also end with {ends}, as in the run that trained it; --stop chooses otherwise")
    agreement_of(loaded)  # here, so that its cost is not in a phase that reads rows
    return loaded, tokenizer


def _default_dtype(job: Job, trained_in: str, named: str) -> str:
    """The precision if none is requested: float32 for training, else that of --fp16 or --bf16, or a student's own.

    Args:
        named: the model and the flag that names it, for messages.
    """
    run = job.config.run
    if job.config.trained is None:
        return "float16" if run.fp16 else "bfloat16" if run.bf16 else trained_in
    if trained_in != "float32":
        say_note(
            f"{named}: was trained in {trained_in} and is loaded in float32, which changes its scores a little; "
            f"use --torch_dtype {trained_in} for its original scores"
        )
    return "float32"  # training under --fp16 or --bf16 keeps full-precision weights to update


def _draw_contexts(job: Job, num_contexts: int) -> list[list[Row]]:
    shots, data = job.config.shots, job.config.data
    if not job.data.demonstrations and shots.asked_for:
        one, noun, column = ("a", "label", data.label_column) if job.task.label_names else ("an", "answer", data.answer_column)
        raise InputError(
            f"--train_file {data.train_file}: no row has {one} {noun} in column {column}; demonstrations need {noun}s, "
            f"add some, or name the column with --{noun}_column"
        )
    if shots.sample_indices_file is not None:
        listed = listed_demonstrations(job.data.demonstrations, shots.sample_indices_file)
        if "num_shots" in job.given and shots.num_shots != len(listed):
            raise InputError(f"--num_shots {shots.num_shots}: --sample_indices_file names {len(listed)} rows; drop --num_shots")
        if num_contexts > 1:
            raise InputError(f"--num_contexts {num_contexts}: --sample_indices_file gives only one context; drop one of them")
        return [listed]
    return draw_contexts(
        job.data.demonstrations,
        num_contexts,
        shots.num_shots,
        data_seed=job.config.run.data_seed,
        balanced=shots.balanced,
        shuffle=shots.shuffle,
        num_labels=len(job.task.label_names),
    )
