"""Gradients that optimizers see otherwise than autograd would make them.

Tied output layers: two tensors (V, H) less at the peak of a training step, and the same bits. Weights that are output layer and
input embeddings get a gradient from both uses. Autograd keeps the output layer's, which comes first, until that of the embeddings
is there, and adds the two up in place if nobody else holds the first one. That of torch's own linear layer is a view of another
tensor, so the sum becomes a third of the same size, at the very moment when all gradients are there. The embeddings' is a second:
nearly all of its rows are zero, so (on a CPU) only the others are made, and added to the sum where it lies. (Autograd would add a
sparse one out of place.) benchmarks/README.md holds the memory of training to a bound that needs both.

Losses of which the gradient is taken at once: what they are made of (logits, and copies of them) is let go before the next one is
made, and not made a second time for the backward pass.

Biases of keys, which with learnt positions change nothing: they add the same to all of a query's attention scores. Their gradient
is 0 but for rounding, and Adam, which divides a gradient by its own size, would make whole steps of that: weights that differ
from run to run with the order of a sum, for no effect. So it is made 0.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from llmft.models.structure import is_linear, role_of, sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POSITIONS = {"embed_positions", "wpe"}
"""What the field calls a table of learnt positions."""


def add_up_in_place(model: PreTrainedModel) -> None:
    """Let the two gradients of tied weights be added up in place, where they are trained."""
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
    separate = torch.is_autocast_enabled(hidden.device.type) or hasattr(head.weight, "ds_id")
    return F.linear(hidden, head.weight) if separate else _Linear.apply(hidden, head.weight)


def with_gradient(loss_of: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """The loss of some values, whose gradient for them is taken now; nothing else gets one."""
    return _WithGradient.apply(values, loss_of)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, loss_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        values = values.detach().requires_grad_()
        with torch.enable_grad():
            loss = loss_of(values)
        (gradient,) = torch.autograd.grad(loss, values)
        context.save_for_backward(gradient)
        return loss.detach()

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = context.saved_tensors
        return grad_output * gradient, None


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
        tokens, places = ids.unique(return_inverse=True)  # (U,), and each token's place among them
        rows = torch.ops.aten.embedding_dense_backward(gradient, places, len(tokens), -1, False)  # (U, H)
        if context.padding_idx is not None:
            rows[tokens == context.padding_idx] = 0
        this_pass = torch._C._current_graph_task_id()

        def add(whole: torch.Tensor) -> torch.Tensor:
            once.remove()
            if torch._C._current_graph_task_id() != this_pass:  # that one was broken off in between
                return whole
            if 0 in whole.stride():  # there was no other use: these are the zeros from below, all in one place of memory
                whole = whole.clone()
            return whole.index_add_(0, tokens, rows)

        once = weight.register_hook(add)
        return None, weight.new_zeros(()).expand_as(weight), None


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
    biases = []
    for name, module in model.named_modules():
        if not is_linear(module) or getattr(module, "bias", None) is None:
            continue
        role, (width, out) = role_of(name.rsplit(".", 1)[-1]), sizes(module)
        if role == "key":
            biases.append((module.bias, torch.arange(out)))
        elif role == "fused" and not isinstance(module, torch.nn.Linear):  # GPT-2's: query, key, value one behind the other
            biases.append((module.bias, torch.arange(width, 2 * width)))
    return biases
