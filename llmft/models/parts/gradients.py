"""Gradients that are computed differently from autograd's.

Tied output layers: two tensors (V, H) less at the peak of a training step, with the same bits. Weights that are both output
    layer and input embeddings get a gradient from each use. Autograd keeps the output layer's, which comes first, until the
    embeddings' one arrives, and adds the two in place if nothing else refers to the first. But the gradient of torch's linear
    layer is a view of another tensor, so the sum becomes a third tensor of that size, just when all gradients exist. The second
    is the embeddings': nearly all of its rows are zero, so (on a CPU) only the others are computed, and added to the sum in
    place. (Autograd would add a sparse one out of place.) benchmarks/README.md checks the memory of training against a bound
    that needs both.

Losses whose gradient is computed immediately: their inputs (logits, and copies of them) are freed before the next ones are
    computed, and not recomputed for the backward pass.

Biases of keys, which have no effect with learnt positions: they add the same to all of a query's attention scores. Their
    gradient is 0 except for rounding, but Adam, which divides a gradient by its own size, would turn that into full steps:
    weights would differ between runs with the order of a sum, without any effect. So the gradient is set to 0.
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
"""Usual names of a table of learnt positions."""


def add_up_in_place(model: PreTrainedModel) -> None:
    """Add up the two gradients of tied weights in place, if they are trained."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None
    if plain and head.weight.requires_grad and head.weight is embeddings.weight:
        head.forward = MethodType(_forward, head)
        if type(embeddings) is torch.nn.Embedding and embeddings.max_norm is None and not embeddings.scale_grad_by_freq:
            embeddings.forward = MethodType(_embed, embeddings)


def adds_up_in_place(head: torch.nn.Linear) -> bool:
    """Whether `add_up_in_place` has been applied to the output layer."""
    return getattr(vars(head).get("forward"), "__func__", None) is _forward


def _forward(head: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    # half-precision copies of autocast and partitions of DeepSpeed ZeRO-3 have their own gradients, which are not views
    separate = torch.is_autocast_enabled(hidden.device.type) or hasattr(head.weight, "ds_id")
    return F.linear(hidden, head.weight) if separate else _Linear.apply(hidden, head.weight)


def with_gradient(loss_of: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """The loss of some values; its gradient for these is computed immediately, and nothing else gets one."""
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
    """`F.linear` (..., H) x (V, H) -> (..., V), whose gradient for the weights is a separate tensor."""

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
    # ZeRO-3 works differently, other hooks must see the whole gradient, and finding a batch's tokens would mean waiting for a GPU
    plain = hasattr(weight, "ds_id") or weight._backward_hooks or not input.is_cpu or not input.numel()
    return (F.embedding if plain else _Embedding.apply)(input, weight, embeddings.padding_idx)


class _Embedding(torch.autograd.Function):
    """`F.embedding` (...) x (V, H) -> (..., H), whose gradient for the weights is added to that of their other uses when that
    is complete; autograd gets zeros that take no memory."""

    @staticmethod
    def forward(context: Any, ids: torch.Tensor, weight: torch.Tensor, padding_idx: int | None) -> torch.Tensor:
        context.save_for_backward(ids)
        context.weight, context.padding_idx = weight, padding_idx  # the weights themselves: saved tensors may come back as copies
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor | None, None]:
        if not context.needs_input_grad[1]:
            return None, None, None
        (ids,), weight = context.saved_tensors, context.weight
        tokens, places = ids.unique(return_inverse=True)  # (U,), and each token's index among them
        rows = torch.ops.aten.embedding_dense_backward(gradient, places, len(tokens), -1, False)  # (U, H)
        if context.padding_idx is not None:
            rows[tokens == context.padding_idx] = 0
        this_pass = torch._C._current_graph_task_id()

        def add(whole: torch.Tensor) -> torch.Tensor:
            once.remove()
            if torch._C._current_graph_task_id() != this_pass:  # that pass was interrupted
                return whole
            if 0 in whole.stride():  # no other use: these are the zeros from below, which share one memory address
                whole = whole.clone()
            return whole.index_add_(0, tokens, rows)

        once = weight.register_hook(add)
        return None, weight.new_zeros(()).expand_as(weight), None


def hold_key_biases(model: PreTrainedModel) -> None:
    """Give optimizers a gradient of exactly 0 for biases without effect, if they are trained."""
    for bias, keys in key_biases(model):
        if bias.requires_grad:
            bias.register_hook(lambda gradient, keys=keys: gradient.index_fill(0, keys.to(gradient.device), 0))


def key_biases(model: PreTrainedModel) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Each bias (n,) with the indices in it that belong to keys; none for models that rotate keys by position (RoPE), where a
    bias does affect attention."""
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
        elif role == "fused" and not isinstance(module, torch.nn.Linear):  # GPT-2's: query, key, value one after another
            biases.append((module.bias, torch.arange(width, 2 * width)))
    return biases
