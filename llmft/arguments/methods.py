"""Which weights are trained, and what each of the three scripts does beside."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.flags import flag
from llmft.errors import InputError

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
        """The trained part, as `models.parts.adapt` and a run's method name it; None where all weights are trained."""
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
