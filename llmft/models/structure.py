"""Finds attention and feed-forward of a decoder by its structure, without a list of model types.

A layer's attention is everything in its module of an attention class; its other linear layers, in the order of their
definition, are the feed-forward. Within attention, projections are recognised by their usual names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FUSED = re.compile(r"query_key_value|qkv|qkv_proj|c_attn|Wqkv")
PROJECTIONS = {role: re.compile(rf"({role[0]}|{role})(_proj|_lin)?") for role in ("query", "key", "value")}


@dataclass(frozen=True)
class Layer:
    """One decoder layer; all attributes except `path` are paths of linear layers within it.

    Attributes:
        path: the layer within the model.
        projections: `query`, `key` and `value`, or `fused` if one linear layer computes all three.
        attention: the linear layers that read the attention's input and make its output.
        feed_forward: those of the feed-forward; None if there is not one such pair.
        experts: whether it has experts; `feed_forward` is then what they share.
    """

    path: str
    projections: dict[str, str]
    attention: tuple[str, str]
    feed_forward: tuple[str, str] | None
    experts: bool


def named(model: PreTrainedModel) -> str:
    """The model's name for messages: where it was loaded from, or else its kind."""
    return model.name_or_path or model.config.model_type


def is_linear(module: torch.nn.Module) -> bool:
    """Whether this is a linear layer: torch's, or GPT-2's with its weight transposed."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def sizes(linear: torch.nn.Module) -> tuple[int, int]:
    """Input and output width of a linear layer, even if ZeRO-3 has partitioned its weight."""
    if isinstance(linear, torch.nn.Linear):
        return linear.in_features, linear.out_features
    return tuple(getattr(linear.weight, "ds_shape", None) or linear.weight.shape)  # GPT-2's are (in, out)


def towers(model: PreTrainedModel) -> str:
    """A regular expression for the names of all modules and weights that a multimodal model has beside its text decoder, for
    images or sound: text does not go through them, so they are not trained. "" for other models."""
    base = model.base_model
    if base is model or not hasattr(base, "get_decoder"):  # in models with code of their own
        return ""
    decoder = {*base.get_decoder().parameters()}
    weights = {child: {*child.parameters()} for child in base.children()}
    beside = {child for child, tensors in weights.items() if tensors and tensors.isdisjoint(decoder)}
    names = [re.escape(name) for name, module in model.named_modules() if module in beside]
    return rf"({'|'.join(names)})(\..+)?" if names else ""


def layers(model: PreTrainedModel) -> list[Layer]:
    """The decoder layers of a causal language model, first to last.

    Raises:
        InputError: they do not have one attention each whose projections are known.
    """
    depth, beside = model.config.get_text_config().num_hidden_layers, towers(model)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    stacks = {name: stack for name, stack in lists.items() if len(stack) == depth and not re.fullmatch(beside, name)}
    for name, stack in stacks.items():
        found = [_layer(f"{name}.{i}", layer) for i, layer in enumerate(stack)]
        if all(found):
            return found
    raise _lacks(model, "one attention with projections for query, key and value")


def dense_layers(model: PreTrainedModel) -> list[Layer]:
    """The decoder layers of a plain causal language model, first to last.

    Raises:
        InputError: they do not have one attention and one dense feed-forward each (for example a mixture of experts).
    """
    found = layers(model)
    if all(layer.feed_forward and not layer.experts for layer in found):
        return found
    raise _lacks(model, "one attention and one dense feed-forward")


def _lacks(model: PreTrainedModel, what: str) -> InputError:
    return InputError(
        f"--model_name_or_path {named(model)}: has no layers of {what}; "
        "train with --use_adapter --adapter_type lora --lora_targets all-linear, which needs none"
    )


def _layer(path: str, layer: torch.nn.Module) -> Layer | None:
    linears = {name: module for name, module in layer.named_modules() if is_linear(module)}
    inside = [child for child, module in layer.named_children() if "attention" in type(module).__name__.lower()]
    attention = [name for name in linears if name.split(".")[0] in inside]
    roles = {name: role_of(name.rsplit(".", 1)[-1]) for name in attention}
    projections = {role: name for name, role in roles.items() if role}
    outputs = [name for name, role in roles.items() if not role]
    if set(projections) not in ({"fused"}, set(PROJECTIONS)) or len(outputs) != 1:
        return None
    first = projections.get("fused") or projections["query"]
    feed_forward = _feed_forward({name: sizes(linear) for name, linear in linears.items() if name not in attention})
    return Layer(path, projections, (first, outputs[0]), feed_forward, _has_experts(layer))


def _feed_forward(linears: dict[str, tuple[int, int]]) -> tuple[str, str] | None:
    """The first and the last of these linear layers (input and output width each) if they can be those of one feed-forward."""
    if len(linears) < 2:
        return None
    (first, (width, inner)), *_, (last, (inputs, out)) = linears.items()
    return (first, last) if out == width and inner in (inputs, 2 * inputs) else None  # twice if gate and up are one layer


def _has_experts(layer: torch.nn.Module) -> bool:
    """Whether the layer has weights of experts, in a tensor (E, out, in); besides, it may have a feed-forward that they share."""
    modules = [module for module in layer.modules() if not isinstance(module, torch.nn.Conv1d)]
    return any(len(getattr(p, "ds_shape", p.shape)) == 3 for module in modules for p in module.parameters(recurse=False))


def role_of(name: str) -> str | None:
    """What a linear layer of this name computes in attention: `query`, `key`, `value`, `fused` for all three; None for others."""
    if FUSED.fullmatch(name):
        return "fused"
    return next((role for role, pattern in PROJECTIONS.items() if pattern.fullmatch(name)), None)
