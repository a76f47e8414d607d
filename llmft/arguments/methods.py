"""Which weights are trained, and what is specific to each of the three scripts."""

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
"""Flags that choose the trained part (at most one may be set), and its name; an adapter is named by its type."""
ONE_PART = {f"--{name}": "only one part can be trained" for name in PARTS}
LORA = "--use_adapter --adapter_type lora"
NO_LABELS = {"--train_on document": "documents have no labels"}


@dataclass
class AdapterArguments(Checked):
    """Which part of the model is trained."""

    _argument_group_name = "trained part (default: all weights)"

    head_only: bool = flag(
        "Train only the output layer; if it is tied to the input embeddings, it is untied first.", False, excludes=ONE_PART
    )
    bitfit: bool = flag("Train only the biases.", False, excludes=ONE_PART)
    freeze_embeddings: bool = flag(
        "Freeze input and position embeddings, and an output layer tied to them.",
        False,
        excludes={part: "it has no effect unless all weights are trained" for part in ONE_PART},
    )
    untie_embeddings: bool = flag(
        "Untie the output layer from the input embeddings.",
        False,
        needs="--method pbft",
        excludes={part: "it has no effect unless all weights are trained" for part in ONE_PART if part != "--head_only"},
    )
    use_adapter: bool = flag("Train an adapter and freeze the model.", False, aliases=("--use_adapters",), excludes=ONE_PART)
    adapter_type: str = flag(
        "Type of adapter; parallel: in parallel to attention and feed-forward, -attn or -fc: to one of them.",
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
        "Scale of LoRA: its update is multiplied by alpha / rank. -1, upstream's learnt scale, means a scale of 1, as the second "
        "matrix can absorb any scale.",
        16,
        at_least=1,
        or_value=-1,
        hint=", or -1 for a scale of 1",
        needs=LORA,
    )
    lora_dropout: float = flag("Dropout on LoRA's input.", 0.0, at_least=0, below=1, needs=LORA)
    lora_targets: str = flag(
        "Layers that LoRA updates; all-linear: all but the output layer (in mixtures of experts, what peft supports: README); "
        "query-value: upstream's choice (the fused layer if they are not separate).",
        "all-linear",
        choices=("all-linear", "query-value"),
        needs=LORA,
    )
    use_soft_prompt: bool = flag(
        "Train embeddings that precede every prompt (initialised as embeddings of random tokens) and freeze the model.",
        False,
        excludes=ONE_PART,
    )
    num_soft_prompt_tokens: int = flag("Length of the soft prompt.", 20, at_least=1, needs="--use_soft_prompt")
    use_cartridge: bool = flag(
        "Train keys and values that precede every prompt and freeze the model; they are initialised from the context "
        "(distill.py) or from random tokens (ft.py).",
        False,
        excludes=ONE_PART | {"--num_contexts 2+": "it starts as the keys and values of one context"},
    )
    cartridge_tokens: int = flag(
        "Length of the cartridge: the context's first tokens; 0: all of them. ft.py needs a length.",
        0,
        at_least=0,
        needs="--use_cartridge",
    )
    cartridge_frozen_tokens: int = flag(
        "Number of the cartridge's first tokens that stay frozen; the first is an attention sink.",
        1,
        at_least=0,
        needs="--use_cartridge",
    )

    @property
    def part(self) -> str | None:
        """The trained part, as named in `models.parts.adapt` and a run's method; None if all weights are trained."""
        part = next((part for flag, part in PARTS.items() if getattr(self, flag)), None)
        return self.adapter_type if part == "adapter" else part

    @property
    def virtual_tokens(self) -> int:
        """Length of the soft prompt or cartridge; 0 if none is trained, or if it is the context's length."""
        if self.use_cartridge:
            return self.cartridge_tokens
        return self.num_soft_prompt_tokens if self.use_soft_prompt else 0

    @property
    def virtual_flag(self) -> str:
        """The flag for the length of the soft prompt or cartridge; "" if none is trained."""
        return "--cartridge_tokens" if self.use_cartridge else "--num_soft_prompt_tokens" if self.use_soft_prompt else ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cartridge_tokens and self.cartridge_frozen_tokens >= self.cartridge_tokens:
            raise InputError(
                f"--cartridge_frozen_tokens {self.cartridge_frozen_tokens}: the cartridge has {self.cartridge_tokens} tokens; "
                "leave 1 or more to train"
            )

    def check_without_context(self) -> None:
        """Check that the length of a cartridge that is trained without a context is given.

        Raises:
            InputError: it is not.
        """
        if self.use_cartridge and not self.cartridge_tokens:
            raise InputError("--cartridge_tokens 0: there is no context to take the length from; give a number of tokens")


@dataclass
class InContextArguments(Checked):
    """Flags of eval.py only."""

    _argument_group_name = "in-context learning"

    num_data_seeds: int = flag(
        "Number of runs with --data_seed, --data_seed + 1, ...; model and data are loaded once, and each run has its own record.",
        1,
        at_least=1,
        names_run=False,
    )
    group: str | None = flag("A name for a group of runs; a column of the csv.", names_run=False, group=UPSTREAM)


@dataclass
class FineTuningArguments(Checked):
    """The method of ft.py, and what it trains on."""

    _argument_group_name = "fine-tuning"

    method: str = flag(
        "`pbft`: the language-modelling head predicts the label's token after the pattern; `vanilla`: a new classification head "
        "replaces it.",
        "pbft",
        choices=("pbft", "vanilla"),
        excludes=NO_LABELS,
        answers="label",
    )
    classifier_type: str = flag(
        "Classification head: one `linear` layer, or `fully-connected`: a hidden layer and an output layer.",
        "fully-connected",
        choices=("fully-connected", "linear"),
        needs="--method vanilla",
    )
    train_on: str = flag(
        "`train`: upstream's draw of --max_train_samples training rows; `demonstrations`: the same --num_shots rows that "
        "eval.py and distill.py put in the context; `document`: language modelling on all documents that the rows are about "
        "(of a named task its evaluation rows, drawn or not), or those of --context_file.",
        "train",
        choices=("train", "demonstrations", "document"),
    )
    loss: str = flag(
        "`cross-entropy` of the correct label's token; `t-few`: plus T-Few's unlikelihood of the wrong labels and cross-entropy "
        "over the labels (Liu et al. 2022).",
        "cross-entropy",
        choices=("cross-entropy", "t-few"),
        needs="--method pbft",
        excludes=NO_LABELS,
        answers="label",
    )
    target_tokens_logits_only: bool = flag(
        "Cross-entropy over the label tokens only, instead of the whole vocabulary.",
        False,
        needs="--method pbft --loss cross-entropy",
        excludes=NO_LABELS,
        answers="label",
    )
