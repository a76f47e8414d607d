"""Floating-point operations by the rule of Liu et al. 2022 (T-Few, arXiv:2205.05638, section 4.2) for decoder-only models:
2N a token for inference and 6N a token for training, N being the number of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def inference_flops(model: torch.nn.Module, tokens: int) -> int:
    """FLOPs of reading `tokens` tokens (padding left out)."""
    return 2 * _weights(model) * tokens


def training_flops(model: torch.nn.Module, tokens: int) -> int:
    """FLOPs of one forward and backward pass over `tokens` tokens, whichever weights are trained."""
    return 6 * _weights(model) * tokens


def _weights(model: torch.nn.Module) -> int:
    return sum(getattr(p, "ds_numel", None) or p.numel() for p in model.parameters())
