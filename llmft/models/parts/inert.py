"""Biases of keys, which with learnt positions change nothing: they add the same to all of a query's attention scores.

Their gradient is 0 but for rounding, and Adam, which divides a gradient by its own size, would make whole steps of that: weights
that differ from run to run with the order of a sum, for no effect. So it is made 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from llmft.models.structure import is_linear, role_of, sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POSITIONS = {"embed_positions", "wpe"}
"""What the field calls a table of learnt positions."""


def hold_key_biases(model: PreTrainedModel) -> None:
    """Let optimizers see a gradient of exactly 0 for biases that change nothing, where they are trained."""
    for bias, keys in key_biases(model):
        if bias.requires_grad:
            bias.register_hook(lambda gradient, keys=keys: gradient.index_fill(0, keys.to(gradient.device), 0))


def key_biases(model: PreTrainedModel) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Each bias (n,) with the places in it that belong to keys; none for models that turn keys by their position (RoPE), where
    a bias does change attention."""
    embeddings = (name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding))
    if POSITIONS.isdisjoint(embeddings):
        return []
    found = []
    for name, module in model.named_modules():
        if not is_linear(module) or getattr(module, "bias", None) is None:
            continue
        role, (width, out) = role_of(name.rsplit(".", 1)[-1]), sizes(module)
        if role == "key":
            found.append((module.bias, torch.arange(out)))
        elif role == "fused" and not isinstance(module, torch.nn.Linear):  # GPT-2's: query, key, value one behind the other
            found.append((module.bias, torch.arange(width, 2 * width)))
    return found
