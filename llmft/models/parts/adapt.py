"""Which weights are trained: all of them, a part of the model's own, or an adapter beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmft.errors import InputError
from llmft.models.parts.gradients import add_up_in_place
from llmft.models.parts.head import classification_head, output_name, untie
from llmft.models.parts.inert import hold_key_biases
from llmft.models.parts.parallel import BLOCKS, add_parallel, parallel_modules, parallel_off
from llmft.models.structure import layers, named
from llmft.models.wrapping import bare_model, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        groups = ", ".join(f"{g.name} ({' x '.join(map(str, g.shape))}) x {g.tensors}" for g in self.trained)
        return f"trains {self.trainable:,} of {self.total:,} weights ({self.share:.3%}): {groups}"


def adapt(
    model: PreTrainedModel,
    part: str | None,
    *,
    dim: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: str = "all-linear",
    prompt_tokens: int = 20,
    context_ids: Sequence[int] | None = None,
    cartridge_tokens: int = 0,
    frozen_tokens: int = 1,
    freeze_embeddings: bool = False,
    untie_embeddings: bool = False,
    seed: int = 0,
) -> torch.nn.Module:
    """The model with the trained part chosen. A classification head is always trained with it.

    Args:
        part: None trains every weight; `head_only` the output layer, untied first where it is the input embeddings;
            `bitfit` all biases (Ben Zaken et al. 2022, arXiv:2106.10199); `lora` low-rank updates beside linear layers
            (Hu et al. 2021, arXiv:2106.09685), scaled by alpha / dim; `ia3` learnt scales of keys, values and the inner
            activation of the feed-forward (Liu et al. 2022, arXiv:2205.05638); `parallel`, `parallel-attn`,
            `parallel-fc` (`llmft.models.parts.parallel`); `soft_prompt` (`llmft.models.parts.soft_prompt`); `cartridge`
            (`llmft.models.parts.cartridge`).
        dim: rank of LoRA, width of a parallel adapter.
        alpha: numerator of LoRA's scale; -1 for a scale of 1.
        dropout: on the input of LoRA's updates.
        targets: LoRA's layers: `all-linear` (but the output layer), or `query-value`.
        prompt_tokens: length of the soft prompt.
        context_ids: tokens of the context that a cartridge starts as; None for random tokens.
        cartridge_tokens: length of the cartridge, 0 for the context's.
        frozen_tokens: how many of the cartridge's first tokens are not trained.
        freeze_embeddings: with None: input and position embeddings stay as they are, and an output layer tied to them.
        untie_embeddings: with None: the output layer gets weights of its own first.
        seed: of a new parallel adapter's weights, and of the random tokens that a soft prompt or cartridge starts as (peft
            draws LoRA's weights from torch's global stream).

    Raises:
        InputError: the model has no such part.
    """
    if untie_embeddings or part == "head_only":
        untie(model)
    if part in ("lora", "ia3"):
        from peft import get_peft_model

        return get_peft_model(model, _peft_config(model, part, dim, alpha, dropout, targets))
    if part == "soft_prompt":
        from llmft.models.parts.soft_prompt import add_soft_prompt

        return add_soft_prompt(model, prompt_tokens, seed, base_of(model))
    if part == "cartridge":
        from llmft.models.parts.cartridge import add_cartridge, context_start
        from llmft.models.parts.prompt_learning import random_tokens

        if context_ids is None:
            context_ids = random_tokens(model.get_input_embeddings().num_embeddings, cartridge_tokens, seed).tolist()
        return add_cartridge(model, context_start(context_ids, cartridge_tokens, frozen_tokens), frozen_tokens, base_of(model))
    model.requires_grad_(False)
    for weight in trained_weights(model, part, freeze_embeddings=freeze_embeddings).values():
        weight.requires_grad_(True)
    if part in BLOCKS:
        add_parallel(model, part, dim, seed)
    head = classification_head(model)
    if head is not None:
        head.requires_grad_(True)
    hold_key_biases(model)
    add_up_in_place(model)
    return model


def trained_weights(model: PreTrainedModel, part: str | None, *, freeze_embeddings: bool) -> dict[str, torch.nn.Parameter]:
    """The model's own weights that are trained with that part, by name; none for what is put beside them."""
    if keeps_base(part):
        return {}
    weights = dict(model.named_parameters())
    if part is None and not freeze_embeddings:
        return weights
    if part == "bitfit":
        chosen = biases(model)
    elif part == "head_only":
        chosen = list(model.get_output_embeddings().parameters())
    else:
        embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        frozen = {weight for module in embeddings for weight in module.parameters()}
        chosen = [weight for weight in weights.values() if weight not in frozen]
    kept = set(chosen)
    return {name: weight for name, weight in weights.items() if weight in kept}


def check_part(model: PreTrainedModel, part: str | None, targets: str) -> None:
    """Check that the model has the part that `adapt` would train, before anything is written.

    Raises:
        InputError: it has not.
    """
    if part == "bitfit":
        biases(model)
    if part == "ia3" or part in BLOCKS or (part == "lora" and targets == "query-value"):
        layers(model)
    if part == "cartridge":
        from llmft.models.parts.cartridge import check_cartridge

        check_cartridge(model, "--use_cartridge")


def keeps_base(part: str | None) -> bool:
    """Whether training that part leaves all weights of the model as they are (a classification head's aside)."""
    return part not in (None, "bitfit", "head_only")


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """The language model that an adapter was put on, to read with: its scores are those of the untouched model, bit for bit.

    Within, it is in eval mode and no gradients are kept. Afterwards the student is as it was: adapter, modes, and which weights
    are trained.

    Args:
        model: what `adapt` made of a language model (not a classifier) with a part that `keeps_base`, in any wrapping.

    Yields:
        The transformers model, no copy.

    Raises:
        ValueError: there is no adapter to leave out, or its weights have been merged into the model's.
    """
    bare = bare_model(model)
    modes = [(module, module.training) for module in bare.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in unwrapped(model).parameters()]
    try:
        with _adapter_off(unwrapped(model)), torch.no_grad():
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


@contextmanager
def _adapter_off(model: torch.nn.Module) -> Iterator[None]:
    if parallel_modules(model):
        with parallel_off(model):
            yield
    elif not hasattr(model, "peft_config"):
        raise ValueError(f"{type(model).__name__} has no adapter to leave out")
    elif any(getattr(module, "merged", False) for module in model.modules()):
        raise ValueError("the adapter's weights have been merged into the model's, which cannot be had back bit for bit")
    elif model.active_peft_config.is_prompt_learning:
        yield  # a soft prompt or cartridge is not part of the bare model
    else:
        with model.disable_adapter():
            yield


def biases(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """All bias terms.

    Raises:
        InputError: there are none.
    """
    found = [parameter for name, parameter in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias"]
    if not found:
        raise InputError(f"--bitfit: {named(model)} has no bias terms; use --use_adapter, or train all weights")
    return found


def base_of(model: PreTrainedModel) -> dict[str, str | None]:
    """What an adapter's files name its base by: folder or hub name, and the commit for a hub model."""
    return {"base_model_name_or_path": model.name_or_path, "revision": getattr(model.config, "_commit_hash", None)}


def ia3_targets(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """The layers that IA3 scales, as paths within a decoder layer: all, and those of them that it scales at their input.

    Keys and values are scaled behind their projections, the feed-forward's inner activation in front of its second layer.
    Where one layer makes queries, keys and values, all of its output is scaled, queries included: peft scales a layer's
    output as a whole. Found by structure, since peft's own table takes queries for values in OPT, and for keys in GPT-J, GPT-Neo,
    Gemma and Qwen (peft 0.21).

    Raises:
        InputError: they cannot be told apart.
    """
    scaled: set[str] = set()
    inner: set[str] = set()
    for layer in layers(model):
        fused = layer.projections.get("fused")
        scaled |= {fused} if fused else {layer.projections["key"], layer.projections["value"]}
        inner.add(layer.feed_forward[1])
    return sorted(scaled | inner), sorted(inner)


def _peft_config(model: PreTrainedModel, part: str, dim: int, alpha: int, dropout: float, targets: str) -> Any:
    from peft import IA3Config, LoraConfig, TaskType
    from transformers.pytorch_utils import Conv1D

    shared: dict[str, Any] = {
        "task_type": TaskType.CAUSAL_LM,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()),
        "revision": base_of(model)["revision"],
    }
    if classification_head(model) is not None:
        shared["modules_to_save"] = [output_name(model)]
    if part == "ia3":
        scaled, inner = ia3_targets(model)
        return IA3Config(target_modules=scaled, feedforward_modules=inner, **shared)
    modules: str | list[str] = targets
    if targets == "query-value":
        found = [layer.projections for layer in layers(model)]
        modules = sorted({p[role] for p in found for role in ("query", "value", "fused") if role in p})
    return LoraConfig(r=dim, lora_alpha=dim if alpha == -1 else alpha, lora_dropout=dropout, target_modules=modules, **shared)


def count_trainable(model: torch.nn.Module) -> TrainableCount:
    """Trained and total weights, and the trained ones by name; those that ZeRO-3 has cut up count whole."""
    named_parameters = list(model.named_parameters())
    shapes = {name: tuple(getattr(p, "ds_shape", None) or p.shape) for name, p in named_parameters}
    trained = Counter((re.sub(r"\.\d+(?=\.)", ".*", n), shapes[n]) for n, p in named_parameters if p.requires_grad)
    groups = [TrainedGroup(name, shape, count, count * _product(shape)) for (name, shape), count in trained.items()]
    return TrainableCount(sum(g.weights for g in groups), sum(map(_product, shapes.values())), tuple(groups))


def _product(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
