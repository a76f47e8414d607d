"""Checks that transformers makes late, unclearly or never: DeepSpeed's config, devices, ranks, optimizers, schedules."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from transformers.trainer_pt_utils import AcceleratorConfig

from llmft.arguments.checks import read_json
from llmft.arguments.deepspeed_config import zero_stage
from llmft.errors import InputError, quote
from llmft.runs.launch import REMEDY, check_port, launched, port_error, this_process
from llmft.runs.notes import say_note
from llmft.runs.signals import on_signals

if TYPE_CHECKING:
    from transformers import TrainingArguments

SECTIONS = ("zero_optimization", "fp16", "bf16", "optimizer", "scheduler", "activation_checkpointing", "aio")
PLAIN_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
NO_GPUS = ("", "-1", "NoDevFiles")
"""Values of $CUDA_VISIBLE_DEVICES that mean no GPU; the last is Slurm's."""
CHECKPOINTING = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop", "every_n_layers", "offload")
"""Settings of activation checkpointing: arguments of torch's `checkpoint` that JSON can give, and two of transformers."""
SERVICES = {"wandb": ["wandb"], "tensorboard": ["tensorboard", "tensorboardX"], "trackio": ["trackio"]}
"""Logging services, and packages of which each needs any one."""


def check_before(run: Any) -> None:
    """Check the fields of a `RunArguments` as given, before transformers processes them.

    Raises:
        InputError: one cannot be used.
    """
    if isinstance(run.deepspeed, str):
        check_deepspeed(run.deepspeed)
    _check_devices(run)
    _check_entries(run, "accelerator_config", [field.name for field in fields(AcceleratorConfig)])
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):  # the second is the first's old name
        _check_entries(run, name, CHECKPOINTING)
    if run.eval_strategy == "steps" and run.eval_steps is None:
        raise InputError("--eval_strategy steps: needs --eval_steps; add it")
    if run.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        raise InputError(
            f"--lr_scheduler_type {run.lr_scheduler_type}: needs an evaluation loss, which is not computed; use another"
        )
    if run.push_to_hub and not run.save_final_model:
        raise InputError("--push_to_hub: needs the trained weights, which --no_save_final_model discards; drop one of them")
    for service in run.report_to:
        if service not in ("none", *SERVICES):
            raise InputError(f"--report_to {service}: no such service; use none, or any of {', '.join(SERVICES)}")
        if service in SERVICES and not any(importlib.util.find_spec(package) for package in SERVICES[service]):
            raise InputError(f"--report_to {service}: the package is not installed; pip install {service}")
    stage = None if run.deepspeed_stage is None else zero_stage(run.deepspeed)
    if stage != run.deepspeed_stage:
        raise InputError(f"--deepspeed_stage {run.deepspeed_stage}: {run.deepspeed} has stage {stage}; make them agree")


def _check_entries(run: Any, name: str, known: Sequence[str]) -> None:
    """Check that a JSON object has no other entries than these."""
    value = getattr(run, name)
    entries = read_json(name, value) if isinstance(value, str) else value if isinstance(value, dict) else {}
    for entry in entries:
        if entry not in known:
            raise InputError(f"--{name}: {quote(entry)} is not one of its entries, {', '.join(known)}; leave it out")


def check_after(run: TrainingArguments) -> None:
    """Check the arguments after transformers has processed them; a process uses one GPU.

    Raises:
        InputError: they contradict each other, or a package is missing.
    """
    if run.n_gpu > 1:
        say_note(f"only one of {run.n_gpu} GPUs is used; start with torchrun or deepspeed to use more")
        run._n_gpu = 1  # else transformers splits batches between threads, and reads more rows per step than requested
    if run.deepspeed and run.hf_deepspeed_config.mismatches:
        names = "; ".join(mismatch.lstrip("- ") for mismatch in run.hf_deepspeed_config.mismatches)
        raise InputError(f"--deepspeed {run.deepspeed}: contradicts the arguments ({names}); write auto there")
    if run.optim_args is not None or run.optim.value not in PLAIN_OPTIMIZERS:
        _check_optimizer(run)
    if run.lr_scheduler_kwargs or run.lr_scheduler_type.value.endswith(("min_lr", "decay")):
        _check_schedule(run)


def check_rows(run: Any, rows: int) -> None:
    """Check that something is left of so many training rows if the last of an epoch, too few for a batch, are dropped.

    Raises:
        InputError: nothing is.
    """
    if run.dataloader_drop_last and rows < run.rows_at_once:
        raise InputError(
            f"--dataloader_drop_last True: {rows} rows are fewer than the {run.rows_at_once} of a batch on all ranks, and would "
            "all be dropped; lower --per_device_train_batch_size, or leave this flag out"
        )


def has_accelerator() -> bool:
    """Whether ranks have a device other than the CPU to compute on. A Mac's GPU serves only a single process."""
    import torch

    return torch.accelerator.is_available() and (this_process().world_size == 1 or not torch.backends.mps.is_available())


@contextmanager
def meeting(run: TrainingArguments) -> Iterator[None]:
    """Context: the ranks of a launch create their process group. Signals stop them at once: there is nothing to save, and Python
    would handle them only after they have met.

    Raises:
        InputError: they cannot meet, or the rank of this process differs between accelerate, which decides what ranks compute
            together, and the launcher, which decides who writes.
    """
    import torch

    process, group = this_process(), torch.distributed
    joining = process.world_size > 1 and not group.is_initialized()
    if joining:
        check_port()
    try:
        with on_signals(signal.SIG_DFL, signal.SIGTERM, signal.SIGINT) if joining else nullcontext():
            yield
    except group.DistNetworkError as error:
        raise port_error(os.environ.get("MASTER_PORT", ""), str(error).splitlines()[0]) from error
    ranks = (run.process_index, run.world_size) if group.is_initialized() else None
    if ranks != (process.rank, process.world_size) and (ranks or process.world_size > 1):
        raise InputError(
            f"RANK {process.rank}: is one of WORLD_SIZE {process.world_size} according to its launcher, but rank "
            f"{run.process_index} of {run.world_size} according to accelerate; {REMEDY}"
        )


def check_deepspeed(file: str) -> None:
    """Check a DeepSpeed config as far as possible without a model; any value may be `auto`.

    Args:
        file: its name, or the config itself as JSON.

    Raises:
        InputError: it cannot be read, or is not a config.
    """
    config = read_json("deepspeed", file)
    for name in SECTIONS:
        if not isinstance(config.get(name, {}), dict):
            raise InputError(f"--deepspeed {file}: {name} is {quote(config[name])}; write an object with its settings")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig(**_without_auto(config.get("zero_optimization", {})))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise InputError(
            f"--deepspeed {file}: {place} is {quote(first['input'])}; {first['msg'][0].lower()}{first['msg'][1:]}"
        ) from error


def _without_auto(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_auto(part) for name, part in value.items() if part != "auto"}
    return value


def _check_devices(run: TrainingArguments) -> None:
    """A requested GPU must exist: a run that continues without it takes days instead of hours."""
    import torch

    if torch.cuda.is_available() and not run.use_cpu:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # DeepSpeed's launcher sets it even for CPUs
    if not run.use_cpu and not launched() and visible not in NO_GPUS:
        raise InputError(f"--use_cpu False: there is no GPU, but CUDA_VISIBLE_DEVICES={visible} asks for one; add --use_cpu")
    for name in ("bf16", "tf32"):
        if getattr(run, name) and not (name == "bf16" and run.use_cpu):
            remedy = "add --use_cpu, or leave it out" if name == "bf16" else "leave it out"
            raise InputError(f"--{name} True: there is no GPU to use; {remedy}")
    if run.ddp_backend in ("nccl", "xccl", "hccl"):
        raise InputError(f"--ddp_backend {run.ddp_backend}: there is no GPU to use; leave it out")
    if run.ddp_backend is not None and not launched():
        raise InputError(f"--ddp_backend {run.ddp_backend}: has no effect without several processes; start them, or leave it out")


def _check_optimizer(run: TrainingArguments) -> None:
    from transformers import Trainer

    if run.optim.value.startswith("schedule_free"):
        raise InputError(
            f"--optim {run.optim.value}: needs its weights averaged to evaluate or save, which is not done; use another"
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(run)
    except ImportError as error:
        raise InputError(f"--optim {run.optim.value}: needs a package that is not installed ({error}); install it") from error
    except ValueError as error:
        if run.optim_args is not None or run.optim.value == "adamw_anyprecision":  # others may need the model to tell
            raise InputError(
                f"--optim {run.optim.value}, --optim_args {run.optim_args}: cannot be used ({error}); write name=value, ..."
            ) from error


def _check_schedule(run: TrainingArguments) -> None:
    import torch
    from transformers import get_scheduler

    try:
        get_scheduler(
            run.lr_scheduler_type,
            torch.optim.SGD([torch.zeros(1)], lr=1.0),
            1,
            10,
            scheduler_specific_kwargs=run.lr_scheduler_kwargs,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"--lr_scheduler_type {run.lr_scheduler_type.value}: --lr_scheduler_kwargs {run.lr_scheduler_kwargs} do not fit "
            f"it ({error}); fix them"
        ) from error
