"""Which weights are trained: the table of parts, and what follows from it."""

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
"""Parts by the name that `AdapterArguments.part` gives them."""
ADAPTERS = {part.adapter for part in PARTS.values() if part.adapter is not None}


def adapt(
    model: PreTrainedModel, flags: AdapterArguments, context_ids: Sequence[int] | None = None, seed: int = 0
) -> torch.nn.Module:
    """The model with the part to be trained that the flags choose. A classification head is always trained with it.

    Args:
        context_ids: tokens of the context that a cartridge starts as; None for random tokens.
        seed: of a new parallel adapter's weights, and of the random tokens that a soft prompt or cartridge starts as (peft
            draws LoRA's weights from torch's global stream).

    Raises:
        InputError: the model has no such part.
    """
    check_part(model, flags)
    return PARTS[flags.part].add(model, flags, context_ids, seed)


def check_part(model: PreTrainedModel, flags: AdapterArguments) -> None:
    """Check that the model has the part that `adapt` would train, before anything is written.

    Raises:
        InputError: it has not.
    """
    PARTS[flags.part].check(model, flags)


def trained_weights(model: PreTrainedModel, flags: AdapterArguments) -> NamedWeights:
    """The model's own weights that are trained; none for what is put beside them."""
    weights = PARTS[flags.part].weights
    return {} if weights is None else weights(model, flags)


def keeps_base(part: str | None) -> bool:
    """Whether training that part leaves all weights of the model as they are (a classification head's aside)."""
    return PARTS[part].weights is None


def adapter_in(model: torch.nn.Module) -> Adapter | None:
    """What the model, in any wrapping, has beside its weights; None for a plain model."""
    return next((adapter for adapter in ADAPTERS if adapter.is_in(model)), None)


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """The language model that an adapter was put on, to read with: its scores are those of the untouched model, bit for bit.

    In the context it is in eval mode and no gradients are kept. Afterwards the student is as it was: adapter, modes, and which
    weights are trained.

    Args:
        model: what `adapt` made of a language model (not a classifier) with a part that `keeps_base`, in any wrapping.

    Yields:
        The transformers model, no copy.

    Raises:
        ValueError: there is no adapter to leave out, or its weights have been merged into the model's.
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
                # as an untouched model's: torch multiplies by weights to be trained in another order, even without gradients
                parameter.requires_grad_(parameter.is_floating_point())
            yield bare
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


SHOWN = 2
"""Groups of trained tensors that a run's output names."""


@dataclass(frozen=True)
class TrainedGroup:
    """Trained tensors alike but for the layer they are in.

    Attributes:
        name: their name, `*` for the layer's number.
        shape: of each.
        tensors: how many.
        weights: in all of them together.
    """

    name: str
    shape: tuple[int, ...]
    tensors: int
    weights: int


@dataclass(frozen=True)
class TrainableCount:
    """How many weights are trained, of how many, and which."""

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
    """Trained and total weights, and the trained ones by name; those that ZeRO-3 has cut up count whole."""
    named_parameters = list(model.named_parameters())
    shapes = {name: tuple(getattr(p, "ds_shape", None) or p.shape) for name, p in named_parameters}
    trained = Counter((re.sub(r"\.\d+(?=\.)", ".*", n), shapes[n]) for n, p in named_parameters if p.requires_grad)
    groups = [TrainedGroup(name, shape, count, count * prod(shape)) for (name, shape), count in trained.items()]
    return TrainableCount(sum(g.weights for g in groups), sum(map(prod, shapes.values())), tuple(groups))
