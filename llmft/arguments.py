"""Every command-line argument. Upstream's names are kept; a help text gives the unit and when the argument is used."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from llmft.errors import InputError


def _flag(default: Any, text: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class ModelArguments:
    """Which model, and how it is held."""

    _argument_group_name = "model"

    model_name_or_path: str | None = _flag(None, "Hub name, folder, or `toy` (in the package); default: the task's own.")
    model_revision: str = _flag("main", "Branch, tag or commit of a hub model.")
    cache_dir: str | None = _flag(None, "Where hub models are kept.")
    torch_dtype: str = _flag("float32", "Precision of the weights.", choices=["float32", "bfloat16", "float16", "auto"])
    attn_implementation: str | None = _flag(None, "Attention as transformers names it (sdpa, eager, ...); default: its choice.")
    tokenizer_name: str | None = _flag(None, "Hub name or folder of the tokenizer; default: the model's own.")
    gguf_file: str | None = _flag(None, "Name of a .gguf file within the model's folder, whose weights are to be used.")
    trust_remote_code: bool = _flag(False, "Run code that comes with the model.")


@dataclass
class AdapterArguments:
    """Which part of the model is trained."""

    _argument_group_name = "trained part (default: all weights)"

    head_only: bool = _flag(
        False, "Train the output layer only; where it is the input embeddings, it gets its own weights first."
    )
    bitfit: bool = _flag(False, "Train the biases only.")
    freeze_embeddings: bool = _flag(False, "Leave input and position embeddings, and an output layer tied to them, as they are.")
    untie_embeddings: bool = _flag(False, "Give the output layer weights of its own where it is the input embeddings.")
    use_adapter: bool = _flag(False, "Train an adapter and freeze the model.", aliases=["--use_adapters"])
    adapter_type: str = _flag(
        "lora",
        "Kind of adapter, with --use_adapter; parallel: beside attention and feed-forward, -attn or -fc: beside one of them.",
        choices=["lora", "ia3", "parallel", "parallel-attn", "parallel-fc"],
    )
    adapter_dim: int = _flag(8, "Rank of LoRA, width of a parallel adapter.")
    lora_alpha: int = _flag(
        16,
        "Scale of LoRA: its update is multiplied by alpha / rank. -1, upstream's learnt scale, is a scale of 1: the second "
        "matrix takes any scale up.",
    )
    lora_dropout: float = _flag(0.0, "Dropout on LoRA's input.")
    lora_targets: str = _flag(
        "all-linear",
        "Layers that LoRA updates; query-value: upstream's choice (the fused layer where there is no separate one).",
        choices=["all-linear", "query-value"],
    )
    use_soft_prompt: bool = _flag(
        False, "Train embeddings in front of every prompt (they start as embeddings of random tokens) and freeze the model."
    )
    num_soft_prompt_tokens: int = _flag(20, "Length of the soft prompt.")

    @property
    def part(self) -> str | None:
        """The trained part, as `llmft.models.adapt.adapt` and a run's method name it; None where all weights are trained."""
        if self.use_adapter:
            return self.adapter_type
        return next(
            (name for name in ("head_only", "bitfit") if getattr(self, name)), "soft_prompt" if self.use_soft_prompt else None
        )

    @property
    def soft_prompt_tokens(self) -> int:
        """Length of the soft prompt, 0 where none is trained."""
        return self.num_soft_prompt_tokens if self.use_soft_prompt else 0

    def _given(self, name: str) -> bool:
        return getattr(self, name) != getattr(type(self), name)

    def __post_init__(self) -> None:
        chosen = [f"--{name}" for name in ("head_only", "bitfit", "use_adapter", "use_soft_prompt") if getattr(self, name)]
        if len(chosen) > 1:
            raise InputError(f"{chosen[0]} and {chosen[1]}: only one part can be trained; leave one of them out")
        if self.untie_embeddings and chosen:
            raise InputError(f"--untie_embeddings: is read only where all weights are trained; leave it or {chosen[0]} out")
        lora = self.use_adapter and self.adapter_type == "lora"
        needs = {"adapter_type": (self.use_adapter, "--use_adapter")}
        needs["adapter_dim"] = (
            self.use_adapter and self.adapter_type != "ia3",
            "--use_adapter and an --adapter_type other than ia3",
        )
        needs |= {name: (lora, "--use_adapter --adapter_type lora") for name in ("lora_alpha", "lora_dropout", "lora_targets")}
        needs["num_soft_prompt_tokens"] = (self.use_soft_prompt, "--use_soft_prompt")
        for name, (there, needed) in needs.items():
            if self._given(name) and not there:
                raise InputError(f"--{name} {getattr(self, name)}: is read only with {needed}; add that, or leave this out")
        for name in ("adapter_dim", "num_soft_prompt_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if self.lora_alpha < 1 and self.lora_alpha != -1:
            raise InputError(f"--lora_alpha {self.lora_alpha}: must be 1 or more, or -1 for a scale of 1")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"--lora_dropout {self.lora_dropout}: must be from 0 to below 1")


@dataclass
class DataArguments:
    """Which task, where its rows lie, and how a row is shown."""

    _argument_group_name = "task and prompt"

    task_name: str = _flag("rte", "Task: toy, rte, sst2.", aliases=["--task"])
    task_variant: str | None = _flag(
        None,
        "Variant of a task that has several; toy: a rule, `flipped`, `confounded`, comma between. Default: by --data_seed.",
    )
    data_dir: str | None = _flag(
        os.environ.get("LLMFT_DATA_DIR"),
        "Folder with local files (glue/rte/train.parquet, ...); default: $LLMFT_DATA_DIR, else the hub.",
    )
    dataset_cache_dir: str | None = _flag(None, "Where hub data sets are kept.")
    max_train_samples: int | None = _flag(
        None, "Training rows (ft.py) or queries (distill.py), drawn by --data_seed; default: all."
    )
    max_eval_samples: int | None = _flag(None, "Rows of each evaluation set, upstream's fixed draw; default: all.")
    pattern: str | None = _flag(None, "Prompt with {text1} and {text2}; default: the task's (minimal).")
    target_prefix: str = _flag("", r"Text between pattern and label; \n and \t mean newline and tab.")
    target_tokens: str | None = _flag(None, "A word for each label in label order, comma between; default: the task's.")
    separate_shots_by: str = _flag(r"\n\n", "Text behind each demonstration.")
    task_description: str = _flag("", "Text in front of the demonstrations.")


@dataclass
class DemonstrationArguments:
    """Which rows are the demonstrations."""

    _argument_group_name = "demonstrations"

    num_shots: int = _flag(16, "Demonstrations in the context; 0 for none.")
    balanced: bool = _flag(True, "As many demonstrations of each label.")
    shuffle: bool = _flag(True, "Demonstrations in an order by --data_seed, else in the order of the data.")


@dataclass
class CalibrationArguments:
    """What is done about a model's bias towards one label."""

    _argument_group_name = "calibration"

    calibrate: bool = _flag(
        False,
        "Divide out the label prior of content-free queries behind the same context (Zhao et al. 2021), in ICL and teacher.",
    )


@dataclass
class FineTuningArguments:
    """How ft.py asks, and what it trains on."""

    _argument_group_name = "fine-tuning"

    method: str = _flag(
        "pbft",
        "`pbft`: the label's token behind the pattern, by the language-modelling head; `vanilla`: a new classification head in "
        "its place.",
        choices=["pbft", "vanilla"],
    )
    classifier_type: str = _flag(
        "fully-connected",
        "Head of --method vanilla: one `linear` layer, or `fully-connected`: a hidden layer and an output layer.",
        choices=["fully-connected", "linear"],
    )
    train_on: str = _flag(
        "train",
        "`train`: upstream's draw of --max_train_samples training rows; `demonstrations`: the very --num_shots rows that eval.py "
        "and distill.py put in the context.",
        choices=["train", "demonstrations"],
    )

    def __post_init__(self) -> None:
        if self.method == "pbft" and self.classifier_type != type(self).classifier_type:
            raise InputError(
                f"--classifier_type {self.classifier_type}: is read only with --method vanilla; add that, or leave this out"
            )


@dataclass
class DistillationArguments:
    """How the student learns from the teacher."""

    _argument_group_name = "distillation"

    temperature: float = _flag(1.0, "Temperature of teacher and student in the loss, which is multiplied by its square.")
    teacher_pattern: str | None = _flag(None, "The teacher's pattern; default: --pattern.")
    student_pattern: str | None = _flag(None, "The student's pattern; default: --pattern.")
    teacher_target_prefix: str | None = _flag(None, "The teacher's prefix; default: --target_prefix.")
    student_target_prefix: str | None = _flag(None, "The student's prefix; default: --target_prefix.")
    teacher_target_tokens: str | None = _flag(None, "The teacher's label words; default: --target_tokens.")
    student_target_tokens: str | None = _flag(None, "The student's label words; default: --target_tokens.")

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"--temperature {self.temperature}: must be above 0")


UNSUPPORTED = {
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "label_smoothing_factor": 0.0,
    "push_to_hub": False,
    "do_predict": False,
    "remove_unused_columns": False,
    "resume_from_checkpoint": None,
    "save_only_model": False,
}
"""Arguments of TrainingArguments that would go unread here, and the value they must keep."""


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with the paper's defaults (Mosbach et al. 2023, Table 7)."""

    _argument_group_name = "run and training (also those of transformers)"

    output_dir: str = _flag("logfiles", "Folder that holds all runs; each gets its own below it.")
    overwrite_output_dir: bool = _flag(False, "Do a finished run again.")
    save_final_model: bool = _flag(True, "Keep the trained weights (or adapter) in the run's folder.")
    seed: int = _flag(0, "Seed of training.")
    data_seed: int = _flag(0, "Seed of the draws: demonstrations, training rows, order of training.")
    learning_rate: float = _flag(1e-5, "Peak learning rate.")
    lr_scheduler_type: str = _flag("constant_with_warmup", "Shape of the learning rate.")
    warmup_steps: float = _flag(0.1, "Warmup: a share of all steps if below 1, else steps.")
    weight_decay: float = _flag(0.0, "AdamW's weight decay.")
    num_train_epochs: float = _flag(40.0, "Passes over the training rows.")
    per_device_train_batch_size: int = _flag(32, "Training rows a step and device.")
    per_device_eval_batch_size: int = _flag(32, "Queries that go through the model together in evaluation and teacher pass.")
    remove_unused_columns: bool = _flag(False, "Must stay off: a training row has columns of our own.")
    save_strategy: str = _flag("no", "When an unfinished run keeps a checkpoint to resume from.")
    logging_steps: float = _flag(10, "Steps between two entries of train_log.jsonl.")
    report_to: str = _flag("none", "Logging services (wandb, tensorboard, trackio), or none.")
    ddp_find_unused_parameters: bool | None = _flag(False, "Whether data-parallel training looks for weights without a gradient.")
    disable_tqdm: bool | None = _flag(None, "No progress bars; default: none where the output is not a terminal.")

    def __post_init__(self) -> None:
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be 1 or more")
        for name, only in UNSUPPORTED.items():
            if getattr(self, name) != only:
                raise InputError(f"--{name} {getattr(self, name)}: not supported; leave it at {only}")
        if self.num_train_epochs <= 0:
            raise InputError(f"--num_train_epochs {self.num_train_epochs}: must be above 0")
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is no device to copy to


@dataclass
class DistillationRunArguments(RunArguments):
    """Defaults of distill.py where they differ: many unlabelled queries, few passes (Snell et al. 2022, B.3, for the batch)."""

    learning_rate: float = _flag(2e-5, "Peak learning rate.")
    num_train_epochs: float = _flag(4.0, "Passes over the queries.")
    per_device_train_batch_size: int = _flag(16, "Queries a step and device.")


class OneLineParser(HfArgumentParser):
    """An argument parser whose errors are `InputError`s: one line, no usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        raise InputError(f"{message}; see --help")


def parse(groups: Sequence[type], argv: Sequence[str] | None, description: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Parse the command line.

    Returns:
        One instance of each group, and the arguments whose value is not the default.

    Raises:
        InputError: an argument is unknown, of the wrong kind, or out of range.
    """
    parser = OneLineParser(list(groups), description=description, usage="%(prog)s [--argument value ...]", allow_abbrev=False)
    try:
        values, unknown = parser.parse_known_args(argv)
        if unknown:
            known = [name for action in parser._actions for name in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1, cutoff=0.8)
            raise InputError(f"{unknown[0]}: no such argument; " + (f"is {near[0]} meant?" if near else "see --help"))
        instances = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)
    except InputError:
        raise
    except (ValueError, ImportError) as error:  # what transformers' own checks of TrainingArguments raise
        raise InputError(" ".join(str(error).split())) from error
    return instances, {name: value for name, value in vars(values).items() if value != parser.get_default(name)}


IRRELEVANT = frozenset(
    """
    model_name_or_path cache_dir data_dir dataset_cache_dir task_name output_dir overwrite_output_dir deepspeed use_cpu
    local_rank report_to run_name project disable_tqdm log_level log_level_replica log_on_each_node logging_dir
    logging_strategy logging_first_step logging_steps logging_nan_inf_filter dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor save_strategy save_steps save_total_limit save_on_each_node
    do_train do_eval debug skip_memory_metrics include_num_input_tokens_seen trackio_space_id trackio_bucket_id
    trackio_static_space_id hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision
    """.split()
)
"""Arguments that cannot change a result, or whose content a run's name holds in another way."""


def as_dict(group: Any) -> dict[str, Any]:
    """An argument group as JSON-able values, secrets left out."""
    values = group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
    return {name: value for name, value in values.items() if not name.endswith("_token")}
