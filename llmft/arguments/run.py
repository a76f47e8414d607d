"""Command-line arguments of a run and of training: those of transformers, with the paper's defaults."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import TrainingArguments

from llmft.arguments.deepspeed_config import find_config, keep_off_the_compiler, zero_stage
from llmft.arguments.flags import flag
from llmft.arguments.run_checks import check_after, check_before, check_group, has_accelerator, meeting
from llmft.arguments.training_defaults import DISTILLATION, PAPER
from llmft.errors import InputError
from llmft.models.reading.batches import BatchSize
from llmft.runs.launch import join_launch, this_process
from llmft.runs.secrets import HIDDEN, is_secret

UNSUPPORTED = {
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "label_smoothing_factor": 0.0,
    "do_predict": False,
    "remove_unused_columns": False,
    "resume_from_checkpoint": None,
    "save_only_model": False,
    "prediction_loss_only": False,
    "eval_do_concat_batches": True,
    "eval_use_gather_object": False,
    "eval_accumulation_steps": None,
    "batch_eval_metrics": False,
    "include_for_metrics": [],
    "fp16_full_eval": False,
    "bf16_full_eval": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "hub_always_push": False,
    "hub_strategy": "end",
    "fsdp": None,
    "fsdp_config": None,
    "parallelism_config": None,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "use_liger_kernel": False,
    "liger_kernel_config": None,
}
"""Arguments of TrainingArguments that would go unread or break here, and the value they must keep."""

SERVICES = {"wandb": ["wandb"], "tensorboard": ["tensorboard", "tensorboardX"], "trackio": ["trackio"]}
"""Logging services, and the packages of which each needs one."""


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with the paper's defaults (Mosbach et al. 2023, Table 7)."""

    _argument_group_name = "run and training (also those of transformers)"
    unscheduled: ClassVar[dict[str, float]] = PAPER
    """Learning rate and epochs of a call from Python that names none; command lines get theirs by what is trained."""

    output_dir: str = flag("logfiles", "Folder that holds all runs; each gets its own below it.")
    overwrite_output_dir: bool = flag(False, "Do a finished run again.")
    count_flops: bool = flag(False, "Count the FLOPs of the operators as well (slow); those of T-Few's rule always are.")
    save_final_model: bool = flag(True, "Keep the trained weights (or adapter) in the run's folder.")
    seed: int = flag(0, "Seed of training.")
    data_seed: int = flag(0, "Seed of the draws: demonstrations, training rows, order of training.")
    learning_rate: float | None = flag(
        None,
        "Peak learning rate. Default: by what is trained (docs/defaults.md); ft.py, all weights, but of the embedded model: "
        "1e-5, as in the paper.",
    )
    lr_scheduler_type: str = flag("constant_with_warmup", "Shape of the learning rate.")
    warmup_steps: float = flag(0.1, "Warmup: a share of all steps if below 1, else steps.")
    weight_decay: float = flag(0.0, "AdamW's weight decay.")
    num_train_epochs: float | None = flag(
        None,
        "Passes over the training rows or queries. Default: by what is trained and on how many (docs/defaults.md); ft.py, all "
        "weights, but of the embedded model: 40, as in the paper.",
    )
    per_device_train_batch_size: int = flag(32, "Training rows a step and device.")
    per_device_eval_batch_size: int = flag(256, "At most so many queries go through the model together, outside of training.")
    max_batch_tokens: int | None = flag(
        None, "At most so many tokens go through the model together, outside of training; default: 2048 on a CPU, else what fits."
    )
    label_names: list[str] | None = field(default=None, init=False)  # no argument: --label_names are the labels of own data
    remove_unused_columns: bool = flag(False, "Must stay off: a training row has columns of our own.")
    save_strategy: str = flag("no", "When an unfinished run keeps a checkpoint to resume from.")
    save_total_limit: int = flag(1, "Checkpoints that an unfinished run keeps, the newest; they go away when it is finished.")
    logging_steps: float = flag(10, "Steps between two entries of train_log.jsonl.")
    logging_nan_inf_filter: bool = flag(False, "Leave NaN and infinite losses out of the log; they stop training all the same.")
    deepspeed_stage: int | None = flag(None, "ZeRO stage of the --deepspeed config; only checked against it.")
    eval_strategy: str = flag("no", "When all evaluation sets are scored during training: no, epoch or steps (--eval_steps).")
    eval_steps: float | None = flag(None, "Steps between two evaluations, or a share of all if below 1.")
    save_best_models: bool = flag(
        False, "Keep the weights of the best evaluations too, in model_best_in_domain and model_best_out_of_domain."
    )
    log_l2_dist_per_weight: bool = flag(False, "Log how far each trained weight is from its start (L2), with every loss.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Logging services (wandb, tensorboard, trackio), or none."}
    )
    push_to_hub: bool = flag(False, "Upload the trained student's folder to the hub when the run is finished.")
    hub_model_id: str | None = flag(
        None, "Name of its repository there (user/name), read with --push_to_hub; default: of model and method, your own."
    )
    hub_token: str | None = flag(None, "Token to push with, read with --push_to_hub; default: that of `hf auth login`.")
    hub_private_repo: bool | None = flag(None, "Whether a new repository is private, read with --push_to_hub.")
    hub_revision: str | None = flag(None, "Branch to push to, read with --push_to_hub; made if need be.")
    hub_strategy: str = flag("end", "Must stay: what is pushed is the finished student.")
    wandb_project_name: str = flag(
        os.environ.get("WANDB_PROJECT", "llmft-experiments"),
        "wandb's project, read with --report_to wandb; default: $WANDB_PROJECT.",
    )
    wandb_group_name: str | None = flag(None, "wandb's group of runs, read with --report_to wandb.")
    wandb_run_name: str | None = flag(None, "wandb's name of the run, read with --report_to wandb; default: wandb's choice.")
    wandb_output_dir: str | None = flag(None, "Where wandb keeps its files, read with --report_to wandb; default: ./wandb.")
    ddp_find_unused_parameters: bool | None = flag(False, "Whether data-parallel training looks for weights without a gradient.")
    disable_tqdm: bool | None = flag(None, "No progress bars; default: none where the output is not a terminal.")

    def __post_init__(self) -> None:
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        for name, value in self.unscheduled.items():
            if getattr(self, name) is None:  # eval.py, which reads neither, or a call from Python
                setattr(self, name, value)
        for name, only in UNSUPPORTED.items():
            if getattr(self, name) != only:
                shown = HIDDEN if is_secret(name) else getattr(self, name)
                raise InputError(f"--{name} {shown}: not supported; leave it at {only}")
        if isinstance(self.deepspeed, str):
            self.deepspeed = find_config(self.deepspeed)
        if self.use_cpu or not has_accelerator():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed searches for a device, and warns that it found none
        check_before(self)
        self._check_evaluation()
        self._check_services()
        self._check_hub()
        self._check_deepspeed_stage()
        join_launch(alone=bool(self.deepspeed))
        if self.deepspeed and os.environ.get("DS_ACCELERATOR") == "cpu":
            keep_off_the_compiler()
        if this_process().world_size > 1 and not has_accelerator():
            self.use_cpu = True  # accelerate would make a process group, and yet have each rank take itself for the only one
        free = self.accelerator_config is None
        with meeting():
            super().__post_init__()
        check_group(self)
        check_after(self)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is no device to copy to
        elif self.device.type == "cuda" and free:
            self.accelerator_config.non_blocking = self.dataloader_pin_memory  # a batch is copied while the last one is computed

    @property
    def eval_batch(self) -> BatchSize:
        """How many queries go through the model together in evaluation and teacher pass."""
        return BatchSize(self.per_device_eval_batch_size, self.max_batch_tokens)

    def _check_deepspeed_stage(self) -> None:
        if self.deepspeed_stage is None:
            return
        if not self.deepspeed:
            raise InputError(f"--deepspeed_stage {self.deepspeed_stage}: goes with --deepspeed; name a config, or leave this out")
        stage = zero_stage(self.deepspeed)
        if stage != self.deepspeed_stage:
            raise InputError(f"--deepspeed_stage {self.deepspeed_stage}: {self.deepspeed} has stage {stage}; make them agree")

    def _check_evaluation(self) -> None:
        if self.eval_strategy not in ("no", "epoch", "steps"):
            raise InputError(f"--eval_strategy {self.eval_strategy}: no such strategy; give no, epoch or steps")
        if self.eval_strategy == "steps" and not (self.eval_steps or 0) > 0:
            raise InputError(f"--eval_strategy steps: needs --eval_steps above 0, not {self.eval_steps}")
        if self.eval_strategy != "steps" and self.eval_steps is not None:
            raise InputError(
                f"--eval_steps {self.eval_steps}: is read only with --eval_strategy steps; add that, or leave this out"
            )
        for name in ("save_best_models", "eval_delay"):
            if self.eval_strategy == "no" and getattr(self, name):
                raise InputError(f"--{name} {getattr(self, name)}: is read only with --eval_strategy epoch or steps; add that")

    def _check_hub(self) -> None:
        for name in ("hub_model_id", "hub_token", "hub_private_repo", "hub_revision"):
            if getattr(self, name) is not None and not self.push_to_hub:
                shown = HIDDEN if is_secret(name) else getattr(self, name)
                raise InputError(f"--{name} {shown}: is read only with --push_to_hub; add that, or leave this out")
        if self.push_to_hub and not self.save_final_model:
            raise InputError("--push_to_hub: needs the trained weights, which --no_save_final_model drops; leave one of them out")

    def _check_services(self) -> None:
        for service in self.report_to:
            if service == "none":
                continue
            if service not in SERVICES:
                raise InputError(f"--report_to {service}: no such service; give none, or some of: {', '.join(SERVICES)}")
            if not any(importlib.util.find_spec(package) for package in SERVICES[service]):
                raise InputError(f"--report_to {service}: the package is not installed; pip install {service}")


@dataclass
class DistillationRunArguments(RunArguments):
    """Defaults of distill.py where they differ (Snell et al. 2022, B.3, for the batch)."""

    unscheduled: ClassVar[dict[str, float]] = {"learning_rate": DISTILLATION[None].learning_rate, "num_train_epochs": 4.0}

    per_device_train_batch_size: int = flag(16, "Queries a step and device.")


IRRELEVANT = frozenset(
    """
    model_name_or_path teacher_model_name_or_path teacher_cache_dir context_file instruction query_file metric
    cache_dir data_dir
    dataset_cache_dir train_file validation_file test_file out_of_domain_file
    eval_task_path paws_qqp_file cola_ood_file task_name output_dir overwrite_output_dir deepspeed use_cpu deepspeed_stage
    count_flops sample_indices_file group num_data_seeds local_rank report_to run_name project
    disable_tqdm log_level log_level_replica log_on_each_node logging_dir
    logging_strategy logging_first_step logging_steps logging_nan_inf_filter dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor save_strategy save_steps save_total_limit save_on_each_node
    do_train do_eval debug skip_memory_metrics include_num_input_tokens_seen trackio_space_id trackio_bucket_id
    trackio_static_space_id push_to_hub hub_model_id hub_token hub_private_repo
    hub_revision hub_strategy wandb_project_name wandb_group_name wandb_run_name wandb_output_dir
    """.split()
)
"""Arguments that cannot change a result, or whose content a run's name holds in another way."""


def as_dict(group: Any) -> dict[str, Any]:
    """An argument group as JSON-able values, secrets left out."""
    values = group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
    return {name: value for name, value in values.items() if not name.endswith("_token")}
