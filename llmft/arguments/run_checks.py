"""What transformers would find out late, in other words, or never: ranges, JSON, DeepSpeed's config, devices, packages."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError, quote
from llmft.runs.launch import REMEDY, check_port, launched, port_error, this_process
from llmft.runs.notes import say_note
from llmft.runs.signals import on_sigterm

if TYPE_CHECKING:
    from llmft.arguments.run import RunArguments

SEEDS = 2**32
"""Numpy's legacy streams take seeds below this."""
AT_LEAST = {
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "max_batch_tokens": 1,
    "gradient_accumulation_steps": 1, "learning_rate": 0,
    "weight_decay": 0, "warmup_steps": 0, "max_grad_norm": 0, "adam_beta1": 0, "adam_beta2": 0, "adam_epsilon": 0,
    "eval_delay": 0, "save_total_limit": 1, "dataloader_num_workers": 0, "neftune_noise_alpha": 0, "ddp_timeout": 1,
    "torch_empty_cache_steps": 1, "seed": 0, "data_seed": 0,
}  # fmt: skip
BELOW = {"adam_beta1": 1, "adam_beta2": 1, "seed": SEEDS, "data_seed": SEEDS}
STEPS = ("logging_steps", "save_steps", "eval_steps")
"""Numbers of steps, or shares of all steps if below 1."""
JSON = ("accelerator_config", "lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
SECTIONS = ("zero_optimization", "fp16", "bf16", "optimizer", "scheduler", "activation_checkpointing", "aio")
PLAIN_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
NO_GPUS = ("", "-1", "NoDevFiles")
"""Values of $CUDA_VISIBLE_DEVICES that ask for none; the last is Slurm's."""


def check_before(run: RunArguments) -> None:
    """Check arguments as they were given, before transformers takes them up.

    Raises:
        InputError: one cannot be used.
    """
    for name, least in AT_LEAST.items():
        value = getattr(run, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value}: must be {least} or more")
        if value is not None and value >= BELOW.get(name, math.inf):
            raise InputError(f"--{name} {value}: must be below {BELOW[name]}")
    if run.num_train_epochs <= 0:
        raise InputError(f"--num_train_epochs {run.num_train_epochs}: must be above 0")
    if run.max_steps != -1 and run.max_steps < 1:
        raise InputError(f"--max_steps {run.max_steps}: must be 1 or more, or -1 to go by --num_train_epochs")
    for name in STEPS:
        value = getattr(run, name)
        if value is not None and (value <= 0 or (value > 1 and value != int(value))):
            raise InputError(f"--{name} {value}: must be a whole number of steps, or a share of all between 0 and 1")
    if run.save_strategy not in ("no", "epoch", "steps"):
        raise InputError(f"--save_strategy {run.save_strategy}: no such strategy; give no, epoch or steps")
    if run.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        raise InputError(
            f"--lr_scheduler_type {run.lr_scheduler_type}: goes by an evaluation loss, which is not read; take another"
        )
    if run.fp16 and run.bf16:
        raise InputError("--fp16 True: --bf16 is given as well; leave one of them out")
    if run.dataloader_prefetch_factor is not None and run.dataloader_num_workers == 0:
        raise InputError(
            f"--dataloader_prefetch_factor {run.dataloader_prefetch_factor}: is read only with --dataloader_num_workers 1 or "
            "more; add that, or leave this out"
        )
    for name in JSON:
        value = getattr(run, name)
        if isinstance(value, str):
            _read_json(name, value)
    if isinstance(run.deepspeed, str):
        check_deepspeed(run.deepspeed)
    _check_devices(run)


def check_after(run: RunArguments) -> None:
    """Check what transformers has made of the arguments; a process uses one GPU.

    Raises:
        InputError: they do not fit together, or a package is missing.
    """
    if run.n_gpu > 1:
        say_note(f"one of {run.n_gpu} GPUs is used; start with torchrun or deepspeed to use more")
        run._n_gpu = 1  # else transformers would split every batch between threads, and read more rows a step than asked for
    if run.deepspeed and run.hf_deepspeed_config.mismatches:
        found = "; ".join(mismatch.lstrip("- ") for mismatch in run.hf_deepspeed_config.mismatches)
        raise InputError(f"--deepspeed {run.deepspeed}: does not agree with the arguments ({found}); write auto there")
    if run.optim_args is not None or run.optim.value not in PLAIN_OPTIMIZERS:
        _check_optimizer(run)
    if run.lr_scheduler_kwargs or run.lr_scheduler_type.value.endswith(("min_lr", "decay")):
        _check_schedule(run)


def has_accelerator() -> bool:
    """Whether there is a device for ranks to compute on, other than the CPU. A Mac's GPU is one for a single process only."""
    import torch

    return torch.accelerator.is_available() and (this_process().world_size == 1 or not torch.backends.mps.is_available())


@contextmanager
def meeting() -> Iterator[None]:
    """Within, the ranks of a launch make their process group. SIGTERM ends them at once: there is nothing to save, and Python
    would hear of it only when they have met.

    Raises:
        InputError: they cannot meet.
    """
    import torch

    if this_process().world_size == 1 or torch.distributed.is_initialized():
        yield
        return
    check_port()
    try:
        with on_sigterm(signal.SIG_DFL):
            yield
    except torch.distributed.DistNetworkError as error:
        raise port_error(os.environ.get("MASTER_PORT", ""), str(error).splitlines()[0]) from error


def check_group(run: RunArguments) -> None:
    """Check that accelerate takes this process for what its launcher says it is: the one decides what ranks compute together, the
    other who writes.

    Raises:
        InputError: it does not.
    """
    import torch

    process = this_process()
    if process.world_size == 1 and not torch.distributed.is_initialized():
        return
    if not torch.distributed.is_initialized() or (run.process_index, run.world_size) != (process.rank, process.world_size):
        raise InputError(
            f"RANK {process.rank}: is one of WORLD_SIZE {process.world_size} for its launcher, and rank {run.process_index} of "
            f"{run.world_size} for accelerate; {REMEDY}"
        )


def check_deepspeed(file: str) -> None:
    """Check a DeepSpeed config as far as can be without a model; `auto` may stand anywhere.

    Args:
        file: its name, or the config itself as JSON.

    Raises:
        InputError: it cannot be read, or is no config.
    """
    config = _read_json("deepspeed", file)
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


def _read_json(name: str, value: str) -> dict[str, Any]:
    """The object in a file, or that the value is."""
    text = value
    if not value.startswith("{"):
        if not Path(value).is_file():
            raise InputError(f"--{name} {value}: no such file; name a JSON file")
        try:
            text = Path(value).read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--{name} {value}: cannot be read ({error}); name a JSON file") from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--{name} {value}: is not JSON ({error}); fix it") from error
    if not isinstance(found, dict):
        raise InputError(f"--{name} {value}: holds no JSON object; write {{...}}")
    return found


def _without_auto(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_auto(part) for name, part in value.items() if part != "auto"}
    return value


def _check_devices(run: RunArguments) -> None:
    """A GPU that is asked for must be there: a run that goes on without it takes days where hours were meant."""
    import torch

    if torch.cuda.is_available() and not run.use_cpu:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # DeepSpeed's launcher sets it for CPUs, too
    if not run.use_cpu and not launched() and visible not in NO_GPUS:
        raise InputError(f"--use_cpu False: there is no GPU, and CUDA_VISIBLE_DEVICES={visible} asks for one; add --use_cpu")
    for name in ("bf16", "tf32"):
        if getattr(run, name) and not (name == "bf16" and run.use_cpu):
            remedy = "add --use_cpu, or leave it out" if name == "bf16" else "leave it out"
            raise InputError(f"--{name} True: there is no GPU to use; {remedy}")
    if run.ddp_backend in ("nccl", "xccl", "hccl"):
        raise InputError(f"--ddp_backend {run.ddp_backend}: there is no GPU to use; leave it out")
    if run.ddp_backend is not None and not launched():
        raise InputError(f"--ddp_backend {run.ddp_backend}: is read only with several processes; start them, or leave it out")


def _check_optimizer(run: RunArguments) -> None:
    from transformers import Trainer

    try:
        Trainer.get_optimizer_cls_and_kwargs(run)
    except ImportError as error:
        raise InputError(f"--optim {run.optim.value}: needs a package that is not there ({error}); install it") from error
    except ValueError as error:
        if run.optim_args is not None or run.optim.value == "adamw_anyprecision":  # others may need the model to say
            raise InputError(
                f"--optim {run.optim.value}, --optim_args {run.optim_args}: cannot be used ({error}); give name=value, ..."
            ) from error


def _check_schedule(run: RunArguments) -> None:
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
            f"--lr_scheduler_type {run.lr_scheduler_type.value}: --lr_scheduler_kwargs {run.lr_scheduler_kwargs} do not go with "
            f"it ({error}); fix them"
        ) from error
