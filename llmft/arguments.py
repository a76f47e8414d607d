"""Command-line arguments of model, data and method (training: `run_arguments.py`; distillation: `distillation_arguments.py`).

Upstream's names are kept; a help text gives the unit and when the argument is used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from llmft.errors import InputError, quote


def flag(default: Any, text: str, **metadata: Any) -> Any:
    """A field with a default and a help text."""
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class ModelArguments:
    """Which model, and how it is held."""

    _argument_group_name = "model"

    model_name_or_path: str | None = flag(None, "Hub name, folder, or `toy` (in the package); default: the task's own.")
    model_revision: str = flag("main", "Branch, tag or commit of a hub model.")
    cache_dir: str | None = flag(None, "Where hub models are kept.")
    torch_dtype: str | None = flag(
        None,
        "Precision of the weights (`auto`: as stored); default: float32, in eval.py the precision that --fp16 or --bf16 name.",
        choices=["float32", "bfloat16", "float16", "auto"],
    )
    attn_implementation: str | None = flag(None, "Attention as transformers names it (sdpa, eager, ...); default: its choice.")
    tokenizer_name: str | None = flag(None, "Hub name or folder of the tokenizer; default: the model's own.")
    gguf_file: str | None = flag(None, "Name of a .gguf file within the model's folder, whose weights are to be used.")
    trust_remote_code: bool = flag(False, "Run code that comes with the model.")

    def __post_init__(self) -> None:
        if "/" in (self.attn_implementation or "") and not self.trust_remote_code:
            raise InputError(
                f"--attn_implementation {self.attn_implementation}: is code from the hub; add --trust_remote_code if you trust it"
            )


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

    head_only: bool = flag(False, "Train the output layer only; where it is the input embeddings, it gets its own weights first.")
    bitfit: bool = flag(False, "Train the biases only.")
    freeze_embeddings: bool = flag(False, "Leave input and position embeddings, and an output layer tied to them, as they are.")
    untie_embeddings: bool = flag(False, "Give the output layer weights of its own where it is the input embeddings.")
    use_adapter: bool = flag(False, "Train an adapter and freeze the model.", aliases=["--use_adapters"])
    adapter_type: str = flag(
        "lora",
        "Kind of adapter, with --use_adapter; parallel: beside attention and feed-forward, -attn or -fc: beside one of them.",
        choices=["lora", "ia3", "parallel", "parallel-attn", "parallel-fc"],
    )
    adapter_dim: int = flag(8, "Rank of LoRA, width of a parallel adapter.")
    lora_alpha: int = flag(
        16,
        "Scale of LoRA: its update is multiplied by alpha / rank. -1, upstream's learnt scale, is a scale of 1: the second "
        "matrix takes any scale up.",
    )
    lora_dropout: float = flag(0.0, "Dropout on LoRA's input.")
    lora_targets: str = flag(
        "all-linear",
        "Layers that LoRA updates; query-value: upstream's choice (the fused layer where there is no separate one).",
        choices=["all-linear", "query-value"],
    )
    use_soft_prompt: bool = flag(
        False, "Train embeddings in front of every prompt (they start as embeddings of random tokens) and freeze the model."
    )
    num_soft_prompt_tokens: int = flag(20, "Length of the soft prompt.")

    use_cartridge: bool = flag(
        False,
        "Train keys and values in front of every prompt and freeze the model; they start as those of the context (distill.py) or "
        "of random tokens (ft.py).",
    )
    cartridge_tokens: int = flag(0, "Length of the cartridge: the context's first tokens; 0: all of them. ft.py needs a number.")
    cartridge_frozen_tokens: int = flag(
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

    task_name: str | None = flag(
        None, "Task: toy, rte, mnli, mnli-original, qqp, cola, sst2, ag_news; default: rte.", aliases=["--task"]
    )
    task_variant: str | None = flag(
        None,
        "Variant of a task that has several; toy: a rule, `flipped`, `confounded`, comma between. Default: by --data_seed.",
    )
    data_dir: str | None = flag(
        os.environ.get("LLMFT_DATA_DIR"),
        "Folder with local files (glue/rte/train.parquet, ...); default: $LLMFT_DATA_DIR, else the hub.",
    )
    dataset_cache_dir: str | None = flag(None, "Where hub data sets are kept.")
    subsample_splits: int | None = flag(
        None, "Rows that each split is cut to, upstream's fixed draw; 0: whole. Default: the task's (1000 for qqp, else whole)."
    )
    eval_task_name: str | None = flag(
        None,
        "Out-of-domain sets, comma between: hans, mnli-mismatched, paws-qqp, cola-ood; or none. Default: the task's partner.",
    )
    eval_task_path: str | None = flag(None, "File of the one set that --eval_task_name names.")
    eval_on_hans: bool = flag(False, "Evaluate on hans; with any --eval_on_... the sets named are all there are.")
    eval_on_mnli_mismatched: bool = flag(False, "Evaluate on mnli-mismatched.")
    eval_on_paws_qqp: bool = flag(False, "Evaluate on paws-qqp.")
    eval_on_cola_ood: bool = flag(False, "Evaluate on cola-ood.")
    paws_qqp_file: str | None = flag(None, "PAWS-QQP's dev_and_test.tsv; default: below --data_dir.")
    cola_ood_file: str | None = flag(None, "CoLA-OOD's dev.tsv; default: below --data_dir, else the hub's CoLA.")
    hans_heuristics: str = flag("lexical_overlap", "HANS: lexical_overlap, subsequence, constituent, comma between; or all.")
    hans_subcase: str | None = flag(None, "HANS: the only subcase, as le_passive; default: all of a heuristic.")
    train_file: str | None = flag(
        None, "Training rows of your own, in place of a task: parquet, jsonl, json, csv or tsv. Needs --validation_file."
    )
    validation_file: str | None = flag(None, "In-domain evaluation rows, with --train_file.")
    test_file: str | None = flag(None, "One more evaluation set, in a group `test` of its own, with --train_file.")
    out_of_domain_file: str | None = flag(None, "Out-of-domain evaluation rows, with --train_file.")
    text1_column: str = flag("text1", "Column of {text1} in your own files.")
    text2_column: str | None = flag(None, "Column of {text2} in your own files; default: text2, if there is one.")
    label_column: str = flag("label", "Column of the labels in your own files: numbers from 0, or text.")
    label_names: str | None = flag(
        None, "Labels of your own files in order, comma between; default: sorted, as found in --train_file."
    )
    max_train_samples: int | None = flag(
        None, "Training rows (ft.py) or queries (distill.py), drawn by --data_seed; default: all."
    )
    max_eval_samples: int | None = flag(None, "Rows of each evaluation set, upstream's fixed draw; default: all.")
    metric: str | None = flag(
        None,
        "More metrics of predictions and right labels, comma between: f1, matthews_correlation, the file of a module of the "
        "library evaluate, or its name on the hub.",
    )
    pattern_name: str = flag(
        "minimal", "A pattern of Mosbach et al. 2023, Table 5, by its name.", choices=["minimal", "gpt-3", "eval-harness"]
    )
    pattern: str | None = flag(None, "Prompt with {text1} and {text2}, in place of a named one.")
    target_prefix: str | None = flag(
        None, r"Text between pattern and label; \n and \t mean newline and tab. Default: the named pattern's."
    )
    target_tokens: str | None = flag(None, "A word for each label in label order, comma between; default: the task's.")
    label_delimiter: str | None = flag(
        None,
        "Text between query and label, in demonstrations too. Default: a space; nothing behind a pattern that ends in a newline, "
        "a tab or a special token, and with label words of a script without spaces.",
    )
    separate_shots_by: str = flag(r"\n\n", "Text behind each demonstration.")
    task_description: str = flag("", "Text in front of the demonstrations.")
    multi_token_labels: bool = flag(
        False, "A label may be several tokens: it is scored by the log-probability of them all (eval.py, distill.py)."
    )
    max_seq_length: int | None = flag(
        None, "Longest prompt in tokens: longer ones lose the end of their longer text. Default: the model's window, never cut."
    )
    upstream_prompts: bool = flag(
        False, r"The literal strings of uds-lsv/llmft (\n stays two characters, its spacing), to compare with published numbers."
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of --metric, each once."""
        return tuple(dict.fromkeys(name.strip() for name in (self.metric or "").split(",") if name.strip()))

    def __post_init__(self) -> None:
        if self.pattern is not None and self.pattern_name != "minimal":
            raise InputError(
                f"--pattern_name {self.pattern_name}: --pattern {quote(self.pattern)} is given as well; leave one out"
            )
        if self.label_delimiter is not None and self.upstream_prompts:
            raise InputError(
                f"--label_delimiter {quote(self.label_delimiter)}: --upstream_prompts joins query and label in its own way; "
                "leave one of them out"
            )
        if self.max_seq_length is not None and self.max_seq_length < 1:
            raise InputError(f"--max_seq_length {self.max_seq_length}: must be 1 or more")


@dataclass
class DemonstrationArguments:
    """Which rows are the demonstrations."""

    _argument_group_name = "demonstrations"

    num_shots: int = flag(16, "Demonstrations in the context; 0 for none.")
    balanced: bool = flag(True, "As many demonstrations of each label.")
    shuffle: bool = flag(True, "Demonstrations in an order by --data_seed, else in the order of the data.")
    sample_indices_file: str | None = flag(
        None,
        "File with the demonstrations' idx in prompt order, in place of a draw: csv with a column idx, or a .json list.",
    )


@dataclass
class CalibrationArguments:
    """What is done about a model's bias towards one label."""

    _argument_group_name = "calibration"

    calibrate: bool = flag(
        False,
        "Divide out the label prior of content-free queries behind the same context (Zhao et al. 2021), in ICL and teacher.",
    )


@dataclass
class InContextArguments:
    """What only eval.py reads."""

    _argument_group_name = "in-context learning"

    num_data_seeds: int = flag(
        1, "Runs one after the other with --data_seed, --data_seed + 1, ...; model and data are loaded once, each has its record."
    )
    group: str | None = flag(None, "A name for a set of runs; a column of the csv.")

    def __post_init__(self) -> None:
        if self.num_data_seeds < 1:
            raise InputError(f"--num_data_seeds {self.num_data_seeds}: must be 1 or more")


@dataclass
class FineTuningArguments:
    """How ft.py asks, and what it trains on."""

    _argument_group_name = "fine-tuning"

    method: str = flag(
        "pbft",
        "`pbft`: the label's token behind the pattern, by the language-modelling head; `vanilla`: a new classification head in "
        "its place.",
        choices=["pbft", "vanilla"],
    )
    classifier_type: str = flag(
        "fully-connected",
        "Head of --method vanilla: one `linear` layer, or `fully-connected`: a hidden layer and an output layer.",
        choices=["fully-connected", "linear"],
    )
    train_on: str = flag(
        "train",
        "`train`: upstream's draw of --max_train_samples training rows; `demonstrations`: the very --num_shots rows that eval.py "
        "and distill.py put in the context.",
        choices=["train", "demonstrations"],
    )
    loss: str = flag(
        "cross-entropy",
        "`cross-entropy` of the right label's token; `t-few`: with T-Few's unlikelihood of the wrong labels and cross-entropy "
        "over the labels added (Liu et al. 2022).",
        choices=["cross-entropy", "t-few"],
    )
    target_tokens_logits_only: bool = flag(False, "Cross-entropy over the label tokens alone, else over the whole vocabulary.")

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
