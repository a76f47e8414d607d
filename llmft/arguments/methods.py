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
ONE_PART = {f"--{name}": "only one part can be trained" for name in PARTS}
LORA = "--use_adapter --adapter_type lora"


@dataclass
class AdapterArguments(Checked):
    """Which part of the model is trained."""

    _argument_group_name = "trained part (default: all weights)"

    head_only: bool = flag(
        "Train the output layer only; where it is the input embeddings, it gets its own weights first.", False, excludes=ONE_PART
    )
    bitfit: bool = flag("Train the biases only.", False, excludes=ONE_PART)
    freeze_embeddings: bool = flag(
        "Leave input and position embeddings, and an output layer tied to them, as they are.",
        False,
        excludes={part: "it is read only where all weights are trained" for part in ONE_PART},
    )
    untie_embeddings: bool = flag(
        "Give the output layer weights of its own where it is the input embeddings.",
        False,
        needs="--method pbft",
        excludes={part: "it is read only where all weights are trained" for part in ONE_PART if part != "--head_only"},
    )
    use_adapter: bool = flag("Train an adapter and freeze the model.", False, aliases=("--use_adapters",), excludes=ONE_PART)
    adapter_type: str = flag(
        "Kind of adapter; parallel: beside attention and feed-forward, -attn or -fc: beside one of them.",
        "lora",
        choices=("lora", "ia3", "parallel", "parallel-attn", "parallel-fc"),
        needs="--use_adapter",
    )
    adapter_dim: int = flag(
        "Rank of LoRA, width of a parallel adapter.",
        8,
        at_least=1,
        needs="--use_adapter --adapter_type lora|parallel|parallel-attn|parallel-fc",
    )
    lora_alpha: int = flag(
        "Scale of LoRA: its update is multiplied by alpha / rank. -1, upstream's learnt scale, is a scale of 1: the second "
        "matrix takes any scale up.",
        16,
        at_least=1,
        or_value=-1,
        hint=", or -1 for a scale of 1",
        needs=LORA,
    )
    lora_dropout: float = flag("Dropout on LoRA's input.", 0.0, at_least=0, below=1, needs=LORA)
    lora_targets: str = flag(
        "Layers that LoRA updates; query-value: upstream's choice (the fused layer where there is no separate one).",
        "all-linear",
        choices=("all-linear", "query-value"),
        needs=LORA,
    )
    use_soft_prompt: bool = flag(
        "Train embeddings in front of every prompt (they start as embeddings of random tokens) and freeze the model.",
        False,
        excludes=ONE_PART,
    )
    num_soft_prompt_tokens: int = flag("Length of the soft prompt.", 20, at_least=1, needs="--use_soft_prompt")
    use_cartridge: bool = flag(
        "Train keys and values in front of every prompt and freeze the model; they start as those of the context (distill.py) or "
        "of random tokens (ft.py).",
        False,
        excludes=ONE_PART | {"--num_contexts 2+": "it starts as the keys and values of one context"},
    )
    cartridge_tokens: int = flag(
        "Length of the cartridge: the context's first tokens; 0: all of them. ft.py needs a number.",
        0,
        at_least=0,
        needs="--use_cartridge",
    )
    cartridge_frozen_tokens: int = flag(
        "How many of the cartridge's first tokens are not trained; the first is an attention sink.",
        1,
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

    def check_without_context(self) -> None:
        """Check that what is trained without a context has a length of its own.

        Raises:
            InputError: a cartridge has none.
        """
        if self.use_cartridge and not self.cartridge_tokens:
            raise InputError("--cartridge_tokens 0: there is no context to take the length from; give the number of tokens")


@dataclass
class InContextArguments(Checked):
    """What only eval.py reads."""

    _argument_group_name = "in-context learning"

    num_data_seeds: int = flag(
        "Runs one after the other with --data_seed, --data_seed + 1, ...; model and data are loaded once, each has its record.",
        1,
        at_least=1,
        names_run=False,
    )
    group: str | None = flag("A name for a set of runs; a column of the csv.", names_run=False, group=UPSTREAM)


@dataclass
class FineTuningArguments(Checked):
    """How ft.py asks, and what it trains on."""

    _argument_group_name = "fine-tuning"

    method: str = flag(
        "`pbft`: the label's token behind the pattern, by the language-modelling head; `vanilla`: a new classification head in "
        "its place.",
        "pbft",
        choices=("pbft", "vanilla"),
        answers="label",
    )
    classifier_type: str = flag(
        "Classification head: one `linear` layer, or `fully-connected`: a hidden layer and an output layer.",
        "fully-connected",
        choices=("fully-connected", "linear"),
        needs="--method vanilla",
    )
    train_on: str = flag(
        "`train`: upstream's draw of --max_train_samples training rows; `demonstrations`: the very --num_shots rows that eval.py "
        "and distill.py put in the context; `document`: the documents that the rows are about, or those of --context_file, each "
        "token by those in front of it.",
        "train",
        choices=("train", "demonstrations", "document"),
    )
    loss: str = flag(
        "`cross-entropy` of the right label's token; `t-few`: with T-Few's unlikelihood of the wrong labels and cross-entropy "
        "over the labels added (Liu et al. 2022).",
        "cross-entropy",
        choices=("cross-entropy", "t-few"),
        needs="--method pbft",
        answers="label",
    )
    target_tokens_logits_only: bool = flag(
        "Cross-entropy over the label tokens alone, else over the whole vocabulary.",
        False,
        needs="--method pbft --loss cross-entropy",
        answers="label",
    )
