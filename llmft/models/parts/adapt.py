"""Which weights are trained: the table of parts, and functions that use it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from llmft.models.parts.cartridge import CARTRIDGE
from llmft.models.parts.layers import IA3, LORA
from llmft.models.parts.parallel import PARALLEL
from llmft.models.parts.part import Adapter, NamedWeights
from llmft.models.parts.soft_prompt import SOFT_PROMPT
from llmft.models.parts.weights import ALL_WEIGHTS, BIASES, OUTPUT_LAYER
from llmft.models.wrapping import bare_model, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.arguments.methods import AdapterArguments

PARTS = {
    None: ALL_WEIGHTS,
    "head_only": OUTPUT_LAYER,
    "bitfit": BIASES,
    "lora": LORA,
    "ia3": IA3,
    "parallel": PARALLEL,
    "parallel-attn": PARALLEL,
    "parallel-fc": PARALLEL,
    "soft_prompt": SOFT_PROMPT,
    "cartridge": CARTRIDGE,
}
"""Parts by their names in `AdapterArguments.part`."""
ADAPTERS = {part.adapter for part in PARTS.values() if part.adapter is not None}


def adapt(
    model: PreTrainedModel, flags: AdapterArguments, context_ids: Sequence[int] | None = None, seed: int = 0
) -> torch.nn.Module:
    """The model with the part that the flags select made trainable. A classification head is always trained with it.

    Args:
        context_ids: tokens of the context from which a cartridge is initialised; None for random tokens.
        seed: for a new parallel adapter's weights, and for the random tokens from which a soft prompt or cartridge is initialised
            (peft draws LoRA's weights from torch's global generator).

    Raises:
        InputError: the model has no such part.
    """
    check_part(model, flags)
    return PARTS[flags.part].add(model, flags, context_ids, seed)


def check_part(model: PreTrainedModel, flags: AdapterArguments) -> None:
    """Check that the model has the part that `adapt` would train, before anything is written.

    Raises:
        InputError: it does not.
    """
    PARTS[flags.part].check(model, flags)


def trained_weights(model: PreTrainedModel, flags: AdapterArguments) -> NamedWeights:
    """The model's own weights that are trained; none for adapters."""
    weights = PARTS[flags.part].weights
    return {} if weights is None else weights(model, flags)


def keeps_base(part: str | None) -> bool:
    """Whether training that part leaves all weights of the model unchanged (except a classification head's)."""
    return PARTS[part].weights is None


def adapter_in(model: torch.nn.Module) -> Adapter | None:
    """The adapter of a model, in any wrapping; None for a plain model."""
    return next((adapter for adapter in ADAPTERS if adapter.is_in(model)), None)


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """The language model under an adapter, for reading: its scores are those of the original model, bit for bit.

    Within the context manager it is in eval mode and gradients are off. Afterwards the student is as before: adapter, modes, and
    which weights are trained.

    Args:
        model: the result of `adapt` on a language model (not a classifier) with a part that `keeps_base`, in any wrapping.

    Yields:
        The transformers model, not a copy.

    Raises:
        ValueError: there is no adapter, or its weights have been merged into the model's.
    """
    bare, adapter = bare_model(model), adapter_in(model)
    if adapter is None:
        raise ValueError(f"{type(unwrapped(model)).__name__} has no adapter to leave out")
    modes = [(module, module.training) for module in bare.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in unwrapped(model).parameters()]
    try:
        with adapter.left_out(model), torch.no_grad():
            bare.eval()
            for parameter in bare.parameters():
                # as in the original model: torch multiplies trainable weights in another order, even without gradients
                parameter.requires_grad_(parameter.is_floating_point())
            yield bare
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


SHOWN = 2
"""Number of groups of trained tensors that a run's output lists."""


@dataclass(frozen=True)
class TrainedGroup:
    """Trained tensors that differ only in their layer.

    Attributes:
        name: their name, `*` for the layer's number.
        shape: that of each tensor.
        tensors: their number.
        weights: the number of weights in all of them together.
    """

    name: str
    shape: tuple[int, ...]
    tensors: int
    weights: int


@dataclass(frozen=True)
class TrainableCount:
    """The numbers of trained weights and of all weights, and which are trained."""

    trainable: int
    total: int
    trained: tuple[TrainedGroup, ...] = ()

    @property
    def share(self) -> float:
        """Trained share, 0 to 1."""
        return self.trainable / self.total

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return {**asdict(self), "share": self.share}

    def __str__(self) -> str:
        if self.trainable == self.total:
            return f"trains all {self.total:,} weights"
        groups = [f"{g.name} ({' x '.join(map(str, g.shape))}) x {g.tensors}" for g in self.trained]
        if len(groups) > SHOWN:
            groups[SHOWN:] = [f"{len(groups) - SHOWN} more, all in metrics.json"]
        return f"trains {self.trainable:,} of {self.total:,} weights ({self.share:.3%}): {', '.join(groups)}"


def count_trainable(model: torch.nn.Module) -> TrainableCount:
    """Trained and total weights, and the trained ones by name; weights that ZeRO-3 has partitioned count in full."""
    named_parameters = list(model.named_parameters())
    shapes = {name: tuple(getattr(p, "ds_shape", None) or p.shape) for name, p in named_parameters}
    trained = Counter((re.sub(r"\.\d+(?=\.)", ".*", n), shapes[n]) for n, p in named_parameters if p.requires_grad)
    groups = [TrainedGroup(name, shape, count, count * prod(shape)) for (name, shape), count in trained.items()]
    return TrainableCount(sum(g.weights for g in groups), sum(map(prod, shapes.values())), tuple(groups))
