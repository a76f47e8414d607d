"""Which weights are trained, and what each of the three scripts does beside."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import UPSTREAM, flag
from llmft.errors import InputError

PARTS = {
    "head_only": "head_only",
    "bitfit": "bitfit",
    "use_adapter": "adapter",
    "use_soft_prompt": "soft_prompt",
    "use_cartridge": "cartridge",
}
"""Flags that choose the trained part, one at most, and its name; an adapter is named by its type."""
ONE_PART = tuple(f"--{name}" for name in PARTS)
LORA = "--use_adapter --adapter_type lora"


@dataclass
class AdapterArguments(Checked):
    """Which part of the model is trained."""

    _argument_group_name = "trained part (default: all weights)"

    head_only: bool = flag(
        False,
        "Train the output layer only; where it is the input embeddings, it gets its own weights first.",
        excludes=ONE_PART,
        because="only one part can be trained",
    )
    bitfit: bool = flag(False, "Train the biases only.", excludes=ONE_PART, because="only one part can be trained")
    freeze_embeddings: bool = flag(
        False,
        "Leave input and position embeddings, and an output layer tied to them, as they are.",
        excludes=ONE_PART,
        because="it is read only where all weights are trained",
    )
    untie_embeddings: bool = flag(
        False,
        "Give the output layer weights of its own where it is the input embeddings.",
        needs="--method pbft",
        excludes=tuple(part for part in ONE_PART if part != "--head_only"),  # which unties them itself
        because="it is read only where all weights are trained",
    )
    use_adapter: bool = flag(
        False,
        "Train an adapter and freeze the model.",
        aliases=("--use_adapters",),
        excludes=ONE_PART,
        because="only one part can be trained",
    )
    adapter_type: str = flag(
        "lora",
        "Kind of adapter; parallel: beside attention and feed-forward, -attn or -fc: beside one of them.",
        choices=("lora", "ia3", "parallel", "parallel-attn", "parallel-fc"),
        needs="--use_adapter",
    )
    adapter_dim: int = flag(
        8,
        "Rank of LoRA, width of a parallel adapter.",
        at_least=1,
        needs="--use_adapter --adapter_type lora|parallel|parallel-attn|parallel-fc",
    )
    lora_alpha: int = flag(
        16,
        "Scale of LoRA: its update is multiplied by alpha / rank. -1, upstream's learnt scale, is a scale of 1: the second "
        "matrix takes any scale up.",
        at_least=1,
        or_value=-1,
        needs=LORA,
    )
    lora_dropout: float = flag(0.0, "Dropout on LoRA's input.", at_least=0, below=1, needs=LORA)
    lora_targets: str = flag(
        "all-linear",
        "Layers that LoRA updates; query-value: upstream's choice (the fused layer where there is no separate one).",
        choices=("all-linear", "query-value"),
        needs=LORA,
    )
    use_soft_prompt: bool = flag(
        False,
        "Train embeddings in front of every prompt (they start as embeddings of random tokens) and freeze the model.",
        excludes=ONE_PART,
        because="only one part can be trained",
    )
    num_soft_prompt_tokens: int = flag(20, "Length of the soft prompt.", at_least=1, needs="--use_soft_prompt")
    use_cartridge: bool = flag(
        False,
        "Train keys and values in front of every prompt and freeze the model; they start as those of the context (distill.py) or "
        "of random tokens (ft.py).",
        excludes=(*ONE_PART, "--num_contexts 2+"),
        because="only one part can be trained, from one context",
    )
    cartridge_tokens: int = flag(
        0,
        "Length of the cartridge: the context's first tokens; 0: all of them. ft.py needs a number.",
        at_least=0,
        needs="--use_cartridge",
    )
    cartridge_frozen_tokens: int = flag(
        1,
        "How many of the cartridge's first tokens are not trained; the first is an attention sink.",
        at_least=0,
        needs="--use_cartridge",
    )

    @property
    def part(self) -> str | None:
        """The trained part, as `models.parts.adapt` and a run's method name it; None where all weights are trained."""
        part = next((part for flag, part in PARTS.items() if getattr(self, flag)), None)
        return self.adapter_type if part == "adapter" else part

    @property
    def virtual_tokens(self) -> int:
        """Length of the soft prompt or cartridge; 0 where none is trained, or where it is the context's."""
        if self.use_cartridge:
            return self.cartridge_tokens
        return self.num_soft_prompt_tokens if self.use_soft_prompt else 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cartridge_tokens and self.cartridge_frozen_tokens >= self.cartridge_tokens:
            raise InputError(
                f"--cartridge_frozen_tokens {self.cartridge_frozen_tokens}: the cartridge has {self.cartridge_tokens} tokens; "
                "leave 1 or more to train"
            )


@dataclass
class InContextArguments(Checked):
    """What only eval.py reads."""

    _argument_group_name = "in-context learning"

    num_data_seeds: int = flag(
        1,
        "Runs one after the other with --data_seed, --data_seed + 1, ...; model and data are loaded once, each has its record.",
        at_least=1,
        names_run=False,
    )
    group: str | None = flag(None, "A name for a set of runs; a column of the csv.", names_run=False, group=UPSTREAM)


@dataclass
class FineTuningArguments(Checked):
    """How ft.py asks, and what it trains on."""

    _argument_group_name = "fine-tuning"

    method: str = flag(
        "pbft",
        "`pbft`: the label's token behind the pattern, by the language-modelling head; `vanilla`: a new classification head in "
        "its place.",
        choices=("pbft", "vanilla"),
    )
    classifier_type: str = flag(
        "fully-connected",
        "Classification head: one `linear` layer, or `fully-connected`: a hidden layer and an output layer.",
        choices=("fully-connected", "linear"),
        needs="--method vanilla",
    )
    train_on: str = flag(
        "train",
        "`train`: upstream's draw of --max_train_samples training rows; `demonstrations`: the very --num_shots rows that eval.py "
        "and distill.py put in the context.",
        choices=("train", "demonstrations"),
    )
    loss: str = flag(
        "cross-entropy",
        "`cross-entropy` of the right label's token; `t-few`: with T-Few's unlikelihood of the wrong labels and cross-entropy "
        "over the labels added (Liu et al. 2022).",
        choices=("cross-entropy", "t-few"),
        needs="--method pbft",
    )
    target_tokens_logits_only: bool = flag(
        False,
        "Cross-entropy over the label tokens alone, else over the whole vocabulary.",
        needs="--method pbft --loss cross-entropy",
    )
