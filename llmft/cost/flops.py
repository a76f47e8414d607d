"""Floating-point operations by the rule of Liu et al. 2022 (T-Few, arXiv:2205.05638, section 4.2) for decoder-only models:
2N per token for inference and 6N per token for training, where N is the number of weights. On request also those of the
operators that run, counted by torch: unlike the rule, they include attention scores, and omit weights that an input does not
use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.utils.flop_counter import FlopCounterMode


def inference_flops(model: torch.nn.Module, tokens: int) -> int:
    """FLOPs of reading `tokens` tokens (not counting padding)."""
    return 2 * _weights(model) * tokens


def training_flops(model: torch.nn.Module, tokens: int) -> int:
    """FLOPs of one forward and backward pass over `tokens` tokens, whichever weights are trained."""
    return 6 * _weights(model) * tokens


def counting() -> FlopCounterMode:
    """A context in which torch counts the FLOPs of matrix products and attention, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    aten = torch.ops.aten  # torch only knows the GPU kernels
    cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=cpu)


def _weights(model: torch.nn.Module) -> int:
    return sum(getattr(p, "ds_numel", None) or p.numel() for p in model.parameters())
