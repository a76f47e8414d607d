"""Command-line arguments of a run and of its training: those of transformers, with the paper's defaults."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import SchedulerType, TrainingArguments

from llmft.arguments.checks import check
from llmft.arguments.deepspeed_config import find_config, keep_off_the_compiler
from llmft.arguments.flags import UPSTREAM, Rules, flag, flags_of
from llmft.arguments.run_checks import check_after, check_before, has_accelerator, meeting
from llmft.arguments.training_defaults import DISTILLATION, PAPER
from llmft.runs.launch import join_launch, this_process

SEEDS = 2**32
"""Numpy's legacy generators take seeds below this."""
TRAINS = "ignored"
"""How eval.py treats training flags: upstream's sweeps pass it some of them."""
PUSH: dict[str, Any] = {"needs": "--push_to_hub", "names_run": False, "evaluation": "refused"}


def _rules(names: str, **rules: Any) -> dict[str, Rules]:
    return {name: Rules(**{"evaluation": TRAINS} | rules) for name in names.split()}


INHERITED = {
    "": Rules(evaluation=TRAINS),
    **_rules(
        """
        eval_on_start load_best_model_at_end label_smoothing_factor do_predict resume_from_checkpoint save_only_model
        prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps batch_eval_metrics
        include_for_metrics fp16_full_eval bf16_full_eval metric_for_best_model greater_is_better hub_always_push fsdp fsdp_config
        parallelism_config torch_compile torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config
        ignore_data_skip auto_find_batch_size enable_jit_checkpoint dataloader_persistent_workers length_column_name
        neftune_noise_alpha average_tokens_across_devices use_cache
        """,
        supported=False,  # these would have no effect or break something here
    ),
    **_rules("gradient_accumulation_steps ddp_timeout torch_empty_cache_steps", at_least=1),
    **_rules("max_grad_norm adam_epsilon", at_least=0),
    **_rules("adam_beta1 adam_beta2", at_least=0, below=1),
    **_rules("max_steps", at_least=1, or_value=-1, hint=", or -1 to use --num_train_epochs"),
    **_rules("eval_delay", at_least=0, needs=("--eval_strategy epoch|steps",), evaluation="refused"),
    **_rules("fp16", excludes={"--bf16": ""}, evaluation="read"),
    **_rules("bf16 tf32 full_determinism", evaluation="read"),
    **_rules(
        "activation_checkpointing gradient_checkpointing",  # the second is the first's old name
        excludes={"--use_cartridge": "layers then read only their own keys and values"},
    ),
    **_rules("accelerator_config lr_scheduler_kwargs gradient_checkpointing_kwargs activation_checkpointing_kwargs", kind="json"),
    **_rules("deepspeed", kind="path", evaluation="read"),
    **_rules("save_steps", kind="steps", needs=("--save_strategy steps",), names_run=False),
    **_rules("dataloader_num_workers", at_least=0, names_run=False),
    **_rules("dataloader_prefetch_factor", needs=("--dataloader_num_workers 1+",), names_run=False),
    **_rules(
        """
        local_rank run_name project log_level log_level_replica log_on_each_node logging_strategy logging_first_step
        dataloader_pin_memory save_on_each_node do_train do_eval debug skip_memory_metrics
        include_num_input_tokens_seen trackio_space_id trackio_bucket_id trackio_static_space_id
        """,
        names_run=False,
    ),
    **_rules("use_cpu", names_run=False, evaluation="read"),
}
"""Rules of fields of TrainingArguments that are not redefined below; '' is for all the others."""


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with the paper's defaults (Mosbach et al. 2023, Table 7)."""

    _argument_group_name = "run and training (also those of transformers)"
    unscheduled: ClassVar[dict[str, float]] = PAPER
    """Learning rate and epochs for a call from Python that gives none; on the command line they depend on the trained part."""

    INHERITED: ClassVar[dict[str, Rules]] = INHERITED

    output_dir: str = flag("Folder that holds all runs; each gets its own subfolder.", "logfiles", kind="folder")
    overwrite_output_dir: bool = flag("Repeat a finished run; an unfinished one is resumed.", False, names_run=False)
    count_flops: bool = flag(
        "Also count the FLOPs of the operators (slow); those by T-Few's rule are always counted.", False, names_run=False
    )
    save_final_model: bool = flag("Save the trained weights (or adapter) in the run's folder.", True, evaluation=TRAINS)
    seed: int = flag("Seed of training.", 0, at_least=0, below=SEEDS)
    data_seed: int = flag("Seed of the draws: demonstrations, training rows, training order.", 0, at_least=0, below=SEEDS)
    learning_rate: float | None = flag(
        "Peak learning rate. Default: depends on the trained part (docs/defaults.md); for all weights in ft.py, except of the "
        "embedded model, 1e-5 as in the paper.",
        at_least=0,
        evaluation=TRAINS,
    )
    lr_scheduler_type: str = flag(
        "Learning rate schedule.", "constant_with_warmup", choices=[kind.value for kind in SchedulerType], evaluation=TRAINS
    )
    warmup_steps: float = flag("Warmup: a fraction of all steps if below 1, else steps.", 0.1, at_least=0, evaluation=TRAINS)
    weight_decay: float = flag("AdamW's weight decay.", 0.0, at_least=0, evaluation=TRAINS)
    num_train_epochs: float | None = flag(
        "Passes over the training rows or queries. Default: depends on the trained part and the number of rows "
        "(docs/defaults.md); for all weights in ft.py, except of the embedded model, 40 as in the paper.",
        above=0,
        evaluation=TRAINS,
    )
    loss_mean: str = flag(
        "For text answers, average the loss of a step over its `tokens`, or over its `examples`, each the mean over its own "
        "tokens.",
        "tokens",
        choices=("tokens", "examples"),
        evaluation=TRAINS,
        answers="text",
    )
    per_device_train_batch_size: int = flag("Training rows per step and device.", 32, at_least=1, evaluation=TRAINS)
    per_device_eval_batch_size: int = flag("Maximum number of queries per forward pass, outside of training.", 256, at_least=1)
    max_batch_tokens: int | None = flag(
        "Maximum number of tokens per forward pass, outside of training; default: 2048 on a CPU (8192 where answers are "
        "written), else 16384, halved until a batch fits (one process).",
        at_least=1,
    )
    label_names: list[str] | None = field(default=None, init=False)  # no argument: --label_names are those of your own data
    train_sampling_strategy: str = flag(  # transformers' others draw an epoch anew when it is resumed, or split it unlike ours
        "Order of the training rows.", "random", choices=("random", "sequential"), evaluation=TRAINS
    )
    remove_unused_columns: bool = flag(
        "Must stay off: training rows have columns of our own.", False, supported=False, evaluation=TRAINS
    )
    save_strategy: str = flag(
        "When to save a checkpoint to resume from.",
        "no",
        choices=("no", "epoch", "steps"),
        names_run=False,
        evaluation=TRAINS,
    )
    save_total_limit: int = flag(
        "Number of checkpoints to keep, the newest ones; all are removed when the run is finished.",
        1,
        at_least=1,
        names_run=False,
        evaluation=TRAINS,
    )
    logging_steps: float = flag("Steps between entries of train_log.jsonl.", 10, kind="steps", names_run=False, evaluation=TRAINS)
    logging_nan_inf_filter: bool = flag(
        "Leave NaN and infinite losses out of the log; they stop training in any case.",
        False,
        names_run=False,
        evaluation=TRAINS,
    )
    deepspeed_stage: int | None = flag(
        "ZeRO stage of the --deepspeed config; only checked, not set.",
        needs="--deepspeed",
        names_run=False,
        evaluation=TRAINS,
        group=UPSTREAM,
    )
    eval_strategy: str = flag(
        "When to score all evaluation sets during training: no, epoch or steps (--eval_steps).",
        "no",
        choices=("no", "epoch", "steps"),
        evaluation="refused",
    )
    eval_steps: float | None = flag(
        "Steps between evaluations, or a fraction of all steps if below 1.",
        kind="steps",
        needs="--eval_strategy steps",
        evaluation="refused",
    )
    save_best_models: bool = flag(
        "Also save the weights of the best evaluations, in model_best_in_domain and model_best_out_of_domain.",
        False,
        needs="--eval_strategy epoch|steps",
        evaluation="refused",
    )
    log_l2_dist_per_weight: bool = flag(
        "Log the distance of each trained weight from its start (L2) with every loss.", False, evaluation="refused"
    )
    report_to: list[str] = flag(  # noqa: RUF009
        "Logging services (wandb, tensorboard, trackio), or none.", ["none"], names_run=False, evaluation=TRAINS
    )
    push_to_hub: bool = flag(
        "Upload the trained student's folder to the hub when the run is finished.", False, names_run=False, evaluation="refused"
    )
    hub_model_id: str | None = flag(
        "Name of the repository on the hub (user/name); default: from model and method, under your own account.", **PUSH
    )
    hub_token: str | None = flag("Token for the upload; default: that of `hf auth login`.", kind="secret", **PUSH)
    hub_private_repo: bool | None = flag("Whether a new repository is private.", **PUSH)
    hub_revision: str | None = flag("Branch to push to; created if it does not exist.", **PUSH)
    hub_strategy: str = flag("Must stay as it is: only the finished student is pushed.", "end", supported=False, names_run=False)
    wandb_project_name: str = flag(
        "wandb's project (with --report_to wandb); default: $WANDB_PROJECT.",
        os.environ.get("WANDB_PROJECT", "llmft-experiments"),
        names_run=False,
        evaluation=TRAINS,
    )
    wandb_group_name: str | None = flag("wandb's group of runs (with --report_to wandb).", names_run=False, evaluation=TRAINS)
    wandb_run_name: str | None = flag(
        "wandb's name of the run (with --report_to wandb); default: wandb's choice.", names_run=False, evaluation=TRAINS
    )
    wandb_output_dir: str | None = flag(
        "Where wandb keeps its files (with --report_to wandb); default: ./wandb.", kind="folder", evaluation=TRAINS
    )
    ddp_find_unused_parameters: bool | None = flag(
        "Whether data-parallel training looks for weights without a gradient.", False, evaluation=TRAINS
    )
    disable_tqdm: bool | None = flag("No progress bars; default: none if the output is not a terminal.", names_run=False)

    @property
    def rows_at_once(self) -> int:
        """Training rows of a batch on all ranks."""
        return self.train_batch_size * (1 if self.accelerator_config.split_batches else self.world_size)

    def __post_init__(self) -> None:
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        for name, value in self.unscheduled.items():
            if getattr(self, name) is None:  # in eval.py, which uses neither, or in a call from Python
                setattr(self, name, value)
        check([type(self)], vars(self))
        if isinstance(self.deepspeed, str):
            self.deepspeed = find_config(self.deepspeed)
        if self.use_cpu or not has_accelerator():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed looks for a device and warns that there is none
        check_before(self)
        join_launch(alone=bool(self.deepspeed))
        if self.deepspeed and os.environ.get("DS_ACCELERATOR") == "cpu":
            keep_off_the_compiler()
        if this_process().world_size > 1 and not has_accelerator():
            self.use_cpu = True  # otherwise accelerate creates a process group, and yet each rank believes to be the only one
        free = self.accelerator_config is None
        with meeting(self):
            super().__post_init__()
        check_after(self)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is no device to copy to
        elif self.device.type == "cuda" and free:
            self.accelerator_config.non_blocking = self.dataloader_pin_memory  # copies a batch while the last one is computed


@dataclass
class DistillationRunArguments(RunArguments):
    """Defaults of distill.py that differ (the batch size is from Snell et al. 2022, B.3)."""

    unscheduled: ClassVar[dict[str, float]] = {"learning_rate": DISTILLATION[None].learning_rate, "num_train_epochs": 4.0}

    per_device_train_batch_size: int = flag("Queries per step and device.", 16, at_least=1, evaluation=TRAINS)


def as_dict(group: Any) -> dict[str, Any]:
    """An argument group as JSON-able values, without secrets."""
    values = group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
    secrets = [name for name, (_, rules) in flags_of(type(group)).items() if rules.kind == "secret"]
    return {name: value for name, value in values.items() if name not in secrets}
