"""Attention that also tells its softmax sums, by torch's fused kernels where one is fit: what parts of a row are put together by.

The kernels are torch's own, those behind `scaled_dot_product_attention`, which keeps the sums to itself.
"""

from __future__ import annotations

import torch
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

aten = torch.ops.aten

FLASH_WIDTH = 8
"""Flash attention on GPUs reads heads by so many numbers."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, is_causal: bool = False, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and its softmax sums, without dropout.

    Args:
        query: (n, H, t, d).
        key, value: (n, H, s, d).
        is_causal: whether token i looks at the first i + 1 keys alone; s is t then.
        scale: of the products; None for 1 / sqrt(d).

    Returns:
        (n, H, t, d), and (n, H, t) in float32 or better: log of the sum over keys of exp(scale * product).
    """
    kernel = _kernel(query, key, value, is_causal)
    if kernel == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, is_causal=is_causal, scale=scale)
    if kernel == "flash":
        return aten._scaled_dot_product_flash_attention(query, key, value, is_causal=is_causal, scale=scale)[:2]
    if kernel == "efficient":
        found, sums, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, compute_log_sumexp=True, is_causal=is_causal, scale=scale
        )
        return found, sums[..., : query.shape[2]]  # filled up to a multiple of 32
    return _plain(query, key, value, is_causal, scale)


def _kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool) -> str:
    """`cpu`, `flash` (half precision), `efficient` (float32 as well), or `plain`, as device, type and widths allow."""
    if query.device.type != "cuda":
        return "cpu" if query.device.type == "cpu" else "plain"
    asked = SDPAParams(query, key, value, None, 0.0, is_causal, False)
    if can_use_flash_attention(asked) and query.shape[-1] % FLASH_WIDTH == 0:
        return "flash"
    return "efficient" if can_use_efficient_attention(asked) else "plain"


def _plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by products that are kept whole (n, H, t, s)."""
    products = (query @ key.transpose(-2, -1)).to(torch.promote_types(query.dtype, torch.float32))
    products *= query.shape[-1] ** -0.5 if scale is None else scale
    if is_causal:
        hidden = torch.ones(products.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        products.masked_fill_(hidden, -torch.inf)
    sums = products.logsumexp(-1)
    return (products - sums[..., None]).exp().to(value.dtype) @ value, sums
