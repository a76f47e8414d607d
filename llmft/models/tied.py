"""Output layers whose weights are the input embeddings: one tensor (V, H) less at the peak of a training step.

Such weights get a gradient from both uses. Autograd keeps the output layer's, which comes first, until that of the embeddings is
there, and adds the two up in place if nobody else holds the first one. That of torch's own linear layer is a view of another
tensor, so the sum becomes a third of the same size, at the very moment when all gradients are there.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_up_in_place(model: PreTrainedModel) -> None:
    """Let the two gradients of tied weights be added up in place, where they are trained; answers and gradients stay what they
    are, bit for bit."""
    head = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None
    if plain and head.weight.requires_grad and head.weight is model.get_input_embeddings().weight:
        head.forward = MethodType(_forward, head)


def adds_up_in_place(head: torch.nn.Linear) -> bool:
    """Whether this is what `add_up_in_place` has done to the output layer."""
    return getattr(vars(head).get("forward"), "__func__", None) is _forward


def _forward(head: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    # half-precision copies of autocast and the pieces of DeepSpeed ZeRO-3 have gradients of their own, which are no views
    own = torch.is_autocast_enabled(hidden.device.type) or hasattr(head.weight, "ds_id")
    return F.linear(hidden, head.weight) if own else _Linear.apply(hidden, head.weight)


class _Linear(torch.autograd.Function):
    """`F.linear` (..., H) x (V, H) -> (..., V), whose gradient for the weights is a tensor of its own."""

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(hidden, weight)
        return F.linear(hidden, weight)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        hidden, weight = context.saved_tensors
        of_hidden = gradient @ weight if context.needs_input_grad[0] else None
        of_weight = gradient.flatten(0, -2).t() @ hidden.flatten(0, -2) if context.needs_input_grad[1] else None
        return of_hidden, of_weight
