"""Output layers whose weights are the input embeddings: two tensors (V, H) less at the peak of a training step.

Such weights get a gradient from both uses. Autograd keeps the output layer's, which comes first, until that of the embeddings is
there, and adds the two up in place if nobody else holds the first one. That of torch's own linear layer is a view of another
tensor, so the sum becomes a third of the same size, at the very moment when all gradients are there. The embeddings' is a second:
nearly all of its rows are zero, so here (on a CPU) only the others are made, and added to the sum where it lies.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_up_in_place(model: PreTrainedModel) -> None:
    """Let the two gradients of tied weights be added up in place, where they are trained; answers and gradients stay what they
    are, bit for bit."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None
    if plain and head.weight.requires_grad and head.weight is embeddings.weight:
        head.forward = MethodType(_forward, head)
        if type(embeddings) is torch.nn.Embedding and embeddings.max_norm is None and not embeddings.scale_grad_by_freq:
            embeddings.forward = MethodType(_embed, embeddings)


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


def _embed(embeddings: torch.nn.Embedding, input: torch.Tensor) -> torch.Tensor:
    weight = embeddings.weight
    # ZeRO-3 has its own way, others' hooks are to see the whole gradient, and to find a batch's tokens would be a wait on GPUs
    plain = hasattr(weight, "ds_id") or weight._backward_hooks or not input.is_cpu or not input.numel()
    return (F.embedding if plain else _Embedding.apply)(input, weight, embeddings.padding_idx)


class _Embedding(torch.autograd.Function):
    """`F.embedding` (...) x (V, H) -> (..., H), whose gradient for the weights is added to that of their other uses when that is
    whole; autograd gets zeros that take no memory."""

    @staticmethod
    def forward(context: Any, ids: torch.Tensor, weight: torch.Tensor, padding_idx: int | None) -> torch.Tensor:
        context.save_for_backward(ids)
        context.weight, context.padding_idx = weight, padding_idx  # the weights themselves: what is saved may come back as a copy
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor | None, None]:
        if not context.needs_input_grad[1]:
            return None, None, None
        (ids,), weight = context.saved_tensors, context.weight
        found, places = ids.unique(return_inverse=True)  # (U,), and each token's place among them
        rows = torch.ops.aten.embedding_dense_backward(gradient, places, len(found), -1, False)  # (U, H)
        if context.padding_idx is not None:
            rows[found == context.padding_idx] = 0
        this_pass = torch._C._current_graph_task_id()

        def add(whole: torch.Tensor) -> torch.Tensor:
            once.remove()
            if torch._C._current_graph_task_id() != this_pass:  # that one was broken off in between
                return whole
            if 0 in whole.stride():  # there was no other use: these are the zeros from below, all in one place of memory
                whole = whole.clone()
            return whole.index_add_(0, found, rows)

        once = weight.register_hook(add)
        return None, weight.new_zeros(()).expand_as(weight), None
