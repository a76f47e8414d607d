"""Every command-line argument. Upstream's names are kept; a help text gives the unit and when the argument is used."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from llmft.errors import InputError
from llmft.objective import DIVERGENCES, SUPPORTS, Objective


def _flag(default: Any, text: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class ModelArguments:
    """Which model, and how it is held."""

    _argument_group_name = "model"

    model_name_or_path: str | None = _flag(None, "Hub name, folder, or `toy` (in the package); default: the task's own.")
    model_revision: str = _flag("main", "Branch, tag or commit of a hub model.")
    cache_dir: str | None = _flag(None, "Where hub models are kept.")
    torch_dtype: str | None = _flag(
        None,
        "Precision of the weights (`auto`: as stored); default: float32, in eval.py the precision that --fp16 or --bf16 name.",
        choices=["float32", "bfloat16", "float16", "auto"],
    )
    attn_implementation: str | None = _flag(None, "Attention as transformers names it (sdpa, eager, ...); default: its choice.")
    tokenizer_name: str | None = _flag(None, "Hub name or folder of the tokenizer; default: the model's own.")
    gguf_file: str | None = _flag(None, "Name of a .gguf file within the model's folder, whose weights are to be used.")
    trust_remote_code: bool = _flag(False, "Run code that comes with the model.")


PARTS = {
    "head_only": "head_only",
    "bitfit": "bitfit",
    "use_adapter": "adapter",
    "use_soft_prompt": "soft_prompt",
    "use_cartridge": "cartridge",
}
"""Flags that choose the trained part, one at most, and its name; an adapter is named by its type."""


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

    use_cartridge: bool = _flag(
        False,
        "Train keys and values in front of every prompt and freeze the model; they start as those of the context (distill.py) or "
        "of random tokens (ft.py).",
    )
    cartridge_tokens: int = _flag(0, "Length of the cartridge: the context's first tokens; 0: all of them. ft.py needs a number.")
    cartridge_frozen_tokens: int = _flag(
        1, "How many of the cartridge's first tokens are not trained; the first is an attention sink."
    )

    @property
    def part(self) -> str | None:
        """The trained part, as `llmft.models.adapt.adapt` and a run's method name it; None where all weights are trained."""
        part = next((part for flag, part in PARTS.items() if getattr(self, flag)), None)
        return self.adapter_type if part == "adapter" else part

    @property
    def virtual_tokens(self) -> int:
        """Length of the soft prompt or cartridge; 0 where none is trained, or where it is the context's."""
        if self.use_cartridge:
            return self.cartridge_tokens
        return self.num_soft_prompt_tokens if self.use_soft_prompt else 0

    def _given(self, name: str) -> bool:
        return getattr(self, name) != getattr(type(self), name)

    def __post_init__(self) -> None:
        chosen = [f"--{name}" for name in PARTS if getattr(self, name)]
        if len(chosen) > 1:
            raise InputError(f"{chosen[0]} and {chosen[1]}: only one part can be trained; leave one of them out")
        if self.untie_embeddings and chosen and not self.head_only:  # which unties them itself
            raise InputError(f"--untie_embeddings: is read only where all weights are trained; leave it or {chosen[0]} out")
        lora = self.use_adapter and self.adapter_type == "lora"
        needs = {"adapter_type": (self.use_adapter, "--use_adapter")}
        needs["adapter_dim"] = (
            self.use_adapter and self.adapter_type != "ia3",
            "--use_adapter and an --adapter_type other than ia3",
        )
        needs |= {name: (lora, "--use_adapter --adapter_type lora") for name in ("lora_alpha", "lora_dropout", "lora_targets")}
        needs["num_soft_prompt_tokens"] = (self.use_soft_prompt, "--use_soft_prompt")
        needs |= {name: (self.use_cartridge, "--use_cartridge") for name in ("cartridge_tokens", "cartridge_frozen_tokens")}
        for name, (there, needed) in needs.items():
            if self._given(name) and not there:
                raise InputError(f"--{name} {getattr(self, name)}: is read only with {needed}; add that, or leave this out")
        for name in ("adapter_dim", "num_soft_prompt_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be 1 or more")
        for name in ("cartridge_tokens", "cartridge_frozen_tokens"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} {getattr(self, name)}: must be 0 or more")
        if self.cartridge_tokens and self.cartridge_frozen_tokens >= self.cartridge_tokens:
            raise InputError(
                f"--cartridge_frozen_tokens {self.cartridge_frozen_tokens}: the cartridge has {self.cartridge_tokens} tokens; "
                "leave 1 or more to train"
            )
        if self.lora_alpha < 1 and self.lora_alpha != -1:
            raise InputError(f"--lora_alpha {self.lora_alpha}: must be 1 or more, or -1 for a scale of 1")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"--lora_dropout {self.lora_dropout}: must be from 0 to below 1")


@dataclass
class DataArguments:
    """Which task, where its rows lie, and how a row is shown."""

    _argument_group_name = "task and prompt"

    task_name: str | None = _flag(
        None, "Task: toy, rte, mnli, mnli-original, qqp, cola, sst2, ag_news; default: rte.", aliases=["--task"]
    )
    task_variant: str | None = _flag(
        None,
        "Variant of a task that has several; toy: a rule, `flipped`, `confounded`, comma between. Default: by --data_seed.",
    )
    data_dir: str | None = _flag(
        os.environ.get("LLMFT_DATA_DIR"),
        "Folder with local files (glue/rte/train.parquet, ...); default: $LLMFT_DATA_DIR, else the hub.",
    )
    dataset_cache_dir: str | None = _flag(None, "Where hub data sets are kept.")
    subsample_splits: int | None = _flag(
        None, "Rows that each split is cut to, upstream's fixed draw; 0: whole. Default: the task's (1000 for qqp, else whole)."
    )
    eval_task_name: str | None = _flag(
        None,
        "Out-of-domain sets, comma between: hans, mnli-mismatched, paws-qqp, cola-ood; or none. Default: the task's partner.",
    )
    eval_task_path: str | None = _flag(None, "File of the one set that --eval_task_name names.")
    eval_on_hans: bool = _flag(False, "Evaluate on hans; with any --eval_on_... the sets named are all there are.")
    eval_on_mnli_mismatched: bool = _flag(False, "Evaluate on mnli-mismatched.")
    eval_on_paws_qqp: bool = _flag(False, "Evaluate on paws-qqp.")
    eval_on_cola_ood: bool = _flag(False, "Evaluate on cola-ood.")
    paws_qqp_file: str | None = _flag(None, "PAWS-QQP's dev_and_test.tsv; default: below --data_dir.")
    cola_ood_file: str | None = _flag(None, "CoLA-OOD's dev.tsv; default: below --data_dir, else the hub's CoLA.")
    hans_heuristics: str = _flag("lexical_overlap", "HANS: lexical_overlap, subsequence, constituent, comma between; or all.")
    hans_subcase: str | None = _flag(None, "HANS: the only subcase, as le_passive; default: all of a heuristic.")
    train_file: str | None = _flag(
        None, "Training rows of your own, in place of a task: parquet, jsonl, json, csv or tsv. Needs --validation_file."
    )
    validation_file: str | None = _flag(None, "In-domain evaluation rows, with --train_file.")
    test_file: str | None = _flag(None, "One more evaluation set, in a group `test` of its own, with --train_file.")
    out_of_domain_file: str | None = _flag(None, "Out-of-domain evaluation rows, with --train_file.")
    text1_column: str = _flag("text1", "Column of {text1} in your own files.")
    text2_column: str | None = _flag(None, "Column of {text2} in your own files; default: text2, if there is one.")
    label_column: str = _flag("label", "Column of the labels in your own files: numbers from 0, or text.")
    label_names: str | None = _flag(
        None, "Labels of your own files in order, comma between; default: sorted, as found in --train_file."
    )
    max_train_samples: int | None = _flag(
        None, "Training rows (ft.py) or queries (distill.py), drawn by --data_seed; default: all."
    )
    max_eval_samples: int | None = _flag(None, "Rows of each evaluation set, upstream's fixed draw; default: all.")
    pattern_name: str = _flag(
        "minimal", "A pattern of Mosbach et al. 2023, Table 5, by its name.", choices=["minimal", "gpt-3", "eval-harness"]
    )
    pattern: str | None = _flag(None, "Prompt with {text1} and {text2}, in place of a named one.")
    target_prefix: str | None = _flag(
        None, r"Text between pattern and label; \n and \t mean newline and tab. Default: the named pattern's."
    )
    target_tokens: str | None = _flag(None, "A word for each label in label order, comma between; default: the task's.")
    separate_shots_by: str = _flag(r"\n\n", "Text behind each demonstration.")
    task_description: str = _flag("", "Text in front of the demonstrations.")
    multi_token_labels: bool = _flag(
        False, "A label may be several tokens: it is scored by the log-probability of them all (eval.py, distill.py)."
    )
    max_seq_length: int | None = _flag(
        None, "Longest prompt in tokens: longer ones lose the end of their longer text. Default: the model's window, never cut."
    )
    upstream_prompts: bool = _flag(
        False, r"The literal strings of uds-lsv/llmft (\n stays two characters, its spacing), to compare with published numbers."
    )

    def __post_init__(self) -> None:
        if self.pattern is not None and self.pattern_name != "minimal":
            raise InputError(f"--pattern_name {self.pattern_name}: --pattern {self.pattern!r} is given as well; leave one out")
        if self.max_seq_length is not None and self.max_seq_length < 1:
            raise InputError(f"--max_seq_length {self.max_seq_length}: must be 1 or more")


@dataclass
class DemonstrationArguments:
    """Which rows are the demonstrations."""

    _argument_group_name = "demonstrations"

    num_shots: int = _flag(16, "Demonstrations in the context; 0 for none.")
    balanced: bool = _flag(True, "As many demonstrations of each label.")
    shuffle: bool = _flag(True, "Demonstrations in an order by --data_seed, else in the order of the data.")
    sample_indices_file: str | None = _flag(
        None,
        "File with the demonstrations' idx in prompt order, in place of a draw: csv with a column idx, or a .json list.",
    )


@dataclass
class CalibrationArguments:
    """What is done about a model's bias towards one label."""

    _argument_group_name = "calibration"

    calibrate: bool = _flag(
        False,
        "Divide out the label prior of content-free queries behind the same context (Zhao et al. 2021), in ICL and teacher.",
    )


@dataclass
class InContextArguments:
    """What only eval.py reads."""

    _argument_group_name = "in-context learning"

    num_data_seeds: int = _flag(
        1, "Runs one after the other with --data_seed, --data_seed + 1, ...; model and data are loaded once, each has its record."
    )
    group: str | None = _flag(None, "A name for a set of runs; a column of the csv.")

    def __post_init__(self) -> None:
        if self.num_data_seeds < 1:
            raise InputError(f"--num_data_seeds {self.num_data_seeds}: must be 1 or more")


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
    loss: str = _flag(
        "cross-entropy",
        "`cross-entropy` of the right label's token; `t-few`: with T-Few's unlikelihood of the wrong labels and cross-entropy "
        "over the labels added (Liu et al. 2022).",
        choices=["cross-entropy", "t-few"],
    )
    target_tokens_logits_only: bool = _flag(False, "Cross-entropy over the label tokens alone, else over the whole vocabulary.")

    def __post_init__(self) -> None:
        if self.target_tokens_logits_only and self.loss != "cross-entropy":
            raise InputError(
                f"--target_tokens_logits_only: goes with --loss cross-entropy, not {self.loss}; leave one of them out"
            )
        for name in ("loss", "target_tokens_logits_only"):
            if self.method == "vanilla" and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"--{name} {getattr(self, name)}: is read only with --method pbft; add that, or leave this out")
        if self.method == "pbft" and self.classifier_type != type(self).classifier_type:
            raise InputError(
                f"--classifier_type {self.classifier_type}: is read only with --method vanilla; add that, or leave this out"
            )


CONTEXTS = ("demonstrations", "instruction", "label", "file")


@dataclass
class DistillationArguments:
    """What the teacher reads, which teacher, and how the student learns from it."""

    _argument_group_name = "distillation"

    context: str = _flag(
        "demonstrations",
        "What the teacher reads beside the query, comma between: `demonstrations` (--num_shots), `instruction` (--instruction), "
        "`file` (--context_file), `label` (the query's own gold label, in --label_pattern).",
    )
    instruction: str | None = _flag(None, "A text, or a file with one; default: the task's own, where it has one.")
    context_file: str | None = _flag(
        None, "File whose text stands in front of the query; or one for each of --num_contexts, comma between."
    )
    label_pattern: str | None = _flag(None, "The teacher's prompt that shows the {label}; default: the task's.")
    label_words: str | None = _flag(None, "What {label} shows for each label, comma between; default: the target tokens.")
    num_contexts: int = _flag(
        1, "Contexts of --num_shots demonstrations each, no row in two of them; or with a --context_file each."
    )
    context_schedule: str = _flag(
        "mean",
        "Several contexts: `mean` of the teachers' distributions; `cycle`: query i gets context i mod m; `sequential`: one after "
        "the other, each from the last one's result.",
        choices=["mean", "cycle", "sequential"],
    )
    stage_teacher: str = _flag(
        "original",
        "Teacher of each stage of `sequential`: the original model, or the last student (with --teacher_mode online).",
        choices=["original", "last"],
    )
    teacher_model_name_or_path: str | None = _flag(
        None, "Another teacher of the same vocabulary; default: the student's own start."
    )
    teacher_mode: str = _flag(
        "precompute",
        "`precompute`: the teacher reads each query once, before training; `online`: at every step (its contexts still once).",
        choices=["precompute", "online"],
    )
    teacher_cache_dir: str | None = _flag(
        None, "Where the teacher's answers are kept for other runs; default: teacher_cache in --output_dir; `none` keeps none."
    )
    targets: str = _flag(
        "soft",
        "What the student learns: the teacher's distribution (`soft`), its answer alone (`hard`: pseudo-labels), or, with no "
        "teacher, the queries' `gold` labels: baselines.",
        choices=["soft", "hard", "gold"],
    )
    support: str = _flag(
        "labels",
        "What the distributions are over: `labels` alone, `labels_rest` (and one bucket for all other tokens), `topk` (the "
        "teacher's k largest and one bucket), `vocab`.",
        choices=list(SUPPORTS),
    )
    topk: int = _flag(50, "k of --support topk.")
    divergence: str = _flag(
        "forward", "`forward` KL(teacher || student), `reverse` KL(student || teacher), or `jsd`.", choices=list(DIVERGENCES)
    )
    jsd_beta: float = _flag(0.5, "Weight of the teacher in the mixture of --divergence jsd.")
    temperature: float = _flag(1.0, "Temperature of teacher and student in the loss, which is multiplied by its square.")
    ce_weight: float = _flag(0.0, "Weight of the cross-entropy with gold labels that is added; the queries must have them.")
    query_file: str | None = _flag(
        None, "Queries from a file, with labels or without, in place of training rows (columns: --text1_column, --text2_column)."
    )
    retention_tasks: str | None = _flag(None, "Other tasks, comma between, that the student is asked about before and after.")
    evaluate_with_context: bool = _flag(True, "Evaluate the student once more with the context still in front.")
    teacher_pattern: str | None = _flag(None, "The teacher's pattern; default: --pattern.")
    student_pattern: str | None = _flag(None, "The student's pattern; default: --pattern.")
    teacher_target_prefix: str | None = _flag(None, "The teacher's prefix; default: --target_prefix.")
    student_target_prefix: str | None = _flag(None, "The student's prefix; default: --target_prefix.")
    teacher_target_tokens: str | None = _flag(None, "The teacher's label words; default: --target_tokens.")
    student_target_tokens: str | None = _flag(None, "The student's label words; default: --target_tokens.")

    @property
    def objective(self) -> Objective:
        """What is minimised, as checked choices."""
        return Objective(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Objective)})

    @property
    def contexts(self) -> tuple[str, ...]:
        """The kinds of context asked for."""
        return tuple(name.strip() for name in self.context.split(","))

    @property
    def context_files(self) -> list[str]:
        """The files of --context_file; one serves all contexts."""
        return [name.strip() for name in (self.context_file or "").split(",") if name.strip()]

    def reads(self, kind: str) -> bool:
        """Whether the teacher reads a context of this kind."""
        return kind in self.contexts

    def __post_init__(self) -> None:
        _ = self.objective  # checks itself
        unknown = [name for name in self.contexts if name not in CONTEXTS]
        if unknown or len(set(self.contexts)) < len(self.contexts):
            raise InputError(f"--context {self.context}: give one or more of {', '.join(CONTEXTS)}, comma between, each once")
        only = {"instruction": "instruction", "context_file": "file", "label_pattern": "label", "label_words": "label"}
        for name, kind in only.items():
            if getattr(self, name) is not None and not self.reads(kind):
                raise InputError(
                    f"--{name} {getattr(self, name)}: is read only with --context {kind}; add that, or leave this out"
                )
        if self.reads("file") and self.context_file is None:
            raise InputError("--context file: name the file with --context_file")
        if self.reads("label") and self.teacher_pattern is not None:
            raise InputError(f"--teacher_pattern {self.teacher_pattern}: with --context label give --label_pattern instead")
        self._check_several()
        if self.targets != "soft":
            for name in ("support", "divergence", "temperature", "ce_weight", "teacher_mode"):
                if getattr(self, name) != getattr(type(self), name):
                    raise InputError(f"--{name} {getattr(self, name)}: is read only with --targets soft; leave one of them out")

    def _check_several(self) -> None:
        if self.num_contexts < 1:
            raise InputError(f"--num_contexts {self.num_contexts}: must be 1 or more")
        files = len(self.context_files)
        if files > 1 and files != self.num_contexts:
            raise InputError(
                f"--context_file {self.context_file}: {files} files, --num_contexts {self.num_contexts}; give one each"
            )
        if self.num_contexts > 1 and not self.reads("demonstrations") and files < 2:
            raise InputError(
                f"--num_contexts {self.num_contexts}: contexts differ in their demonstrations or files; add them to --context"
            )
        if self.num_contexts == 1 and self.context_schedule != "mean":
            raise InputError(f"--context_schedule {self.context_schedule}: is read only with --num_contexts 2 or more")
        if self.stage_teacher == "last" and self.context_schedule != "sequential":
            raise InputError("--stage_teacher last: is read only with --context_schedule sequential; add that, or leave this out")
        if self.stage_teacher == "last" and self.teacher_mode == "precompute":
            raise InputError("--stage_teacher last: the last student is not there beforehand; add --teacher_mode online")
        if self.context_schedule == "sequential" and self.targets != "soft":
            raise InputError(
                f"--targets {self.targets}: goes with one context, or several by mean or cycle; leave one of them out"
            )


UNSUPPORTED = {
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "label_smoothing_factor": 0.0,
    "push_to_hub": False,
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
    "hub_model_id": None,
    "hub_strategy": "every_save",
    "hub_token": None,
    "hub_private_repo": None,
    "hub_always_push": False,
    "hub_revision": None,
}
"""Arguments of TrainingArguments that would go unread here, and the value they must keep."""

SERVICES = {"wandb": ["wandb"], "tensorboard": ["tensorboard", "tensorboardX"], "trackio": ["trackio"]}
"""Logging services, and the packages of which each needs one."""


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
    label_names: list[str] | None = field(default=None, init=False)  # no argument: --label_names are the labels of own data
    remove_unused_columns: bool = _flag(False, "Must stay off: a training row has columns of our own.")
    save_strategy: str = _flag("no", "When an unfinished run keeps a checkpoint to resume from.")
    logging_steps: float = _flag(10, "Steps between two entries of train_log.jsonl.")
    deepspeed_stage: int | None = _flag(None, "ZeRO stage of the --deepspeed config; only checked against it.")
    eval_strategy: str = _flag("no", "When all evaluation sets are scored during training: no, epoch or steps (--eval_steps).")
    eval_steps: float | None = _flag(None, "Steps between two evaluations, or a share of all if below 1.")
    save_best_models: bool = _flag(
        False, "Keep the weights of the best evaluations too, in model_best_in_domain and model_best_out_of_domain."
    )
    log_l2_dist_per_weight: bool = _flag(False, "Log how far each trained weight is from its start (L2), with every loss.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Logging services (wandb, tensorboard, trackio), or none."}
    )
    wandb_project_name: str = _flag(
        os.environ.get("WANDB_PROJECT", "llmft-experiments"),
        "wandb's project, read with --report_to wandb; default: $WANDB_PROJECT.",
    )
    wandb_group_name: str | None = _flag(None, "wandb's group of runs, read with --report_to wandb.")
    wandb_run_name: str | None = _flag(None, "wandb's name of the run, read with --report_to wandb; default: wandb's choice.")
    wandb_output_dir: str | None = _flag(None, "Where wandb keeps its files, read with --report_to wandb; default: ./wandb.")
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
        self._check_evaluation()
        self._check_services()
        super().__post_init__()
        self._check_deepspeed_stage()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is no device to copy to

    def _check_deepspeed_stage(self) -> None:
        if self.deepspeed_stage is None:
            return
        if not self.deepspeed:
            raise InputError(f"--deepspeed_stage {self.deepspeed_stage}: goes with --deepspeed; name a config, or leave this out")
        stage = self.hf_deepspeed_config.get_value("zero_optimization.stage")
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
    """Defaults of distill.py where they differ: many unlabelled queries, few passes (Snell et al. 2022, B.3, for the batch)."""

    learning_rate: float = _flag(2e-5, "Peak learning rate.")
    num_train_epochs: float = _flag(4.0, "Passes over the queries.")
    per_device_train_batch_size: int = _flag(16, "Queries a step and device.")


IRRELEVANT = frozenset(
    """
    model_name_or_path teacher_model_name_or_path teacher_cache_dir context_file instruction query_file
    cache_dir data_dir
    dataset_cache_dir train_file validation_file test_file out_of_domain_file
    eval_task_path paws_qqp_file cola_ood_file task_name output_dir overwrite_output_dir deepspeed use_cpu deepspeed_stage
    sample_indices_file group num_data_seeds local_rank report_to run_name project
    disable_tqdm log_level log_level_replica log_on_each_node logging_dir
    logging_strategy logging_first_step logging_steps logging_nan_inf_filter dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor save_strategy save_steps save_total_limit save_on_each_node
    do_train do_eval debug skip_memory_metrics include_num_input_tokens_seen trackio_space_id trackio_bucket_id
    trackio_static_space_id wandb_project_name wandb_group_name wandb_run_name wandb_output_dir
    """.split()
)
"""Arguments that cannot change a result, or whose content a run's name holds in another way."""


def as_dict(group: Any) -> dict[str, Any]:
    """An argument group as JSON-able values, secrets left out."""
    values = group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
    return {name: value for name, value in values.items() if not name.endswith("_token")}
