"""Attention with the sums of its softmax, by which attention to one set of keys can be combined with that to another.

The fused kernels behind torch's `scaled_dot_product_attention` compute the sums but do not return them; here they return both.
Capped products and sinks, which the kernels lack, use products that are stored in full.
"""

from __future__ import annotations

import torch
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

from llmft.models.wrapping import precise

FLASH_WIDTH = 8
"""Flash attention on GPUs reads heads in multiples of this many numbers."""

MASK_WIDTH = 16
"""Efficient attention on GPUs reads rows of a mask in multiples of this many numbers."""

HIDDEN = -3e4
"""Added to a product that a mask hides. Not the lowest possible value: half precision can represent it, and for a row that is
hidden altogether CPU kernels would return no sum."""

PRODUCTS = 2**26
"""Number of products that are stored at once if no gradients are needed: 256 MiB."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    is_causal: bool = False,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and its softmax sums, by one of torch's fused kernels if possible.

    Args:
        query: (n, H, t, d).
        key, value: (n, H, s, d).
        is_causal: whether token i attends only to the first i + 1 keys; s is then t, and there is no mask.
        mask: (t, s), true where a token may look; None for everywhere. A token that may look nowhere has a sum that is
            negligible compared with any other's.
        scale: factor of the products; None for 1 / sqrt(d).
        softcap: c in c * tanh(product / c), which replaces each product; None for the products themselves.
        dropout: share of the weights that are set to zero.

    Returns:
        (n, H, t, d), and (n, H, t) in float32 or better: log of the sum over keys of exp(scale * product).
    """
    plain = softcap is not None or dropout or (torch.is_grad_enabled() and query.requires_grad)  # kernels' sums have no gradients
    added = None if mask is None or plain else _added(mask, query)
    kernel = "plain" if plain else kernel_for(query, key, value, added, is_causal)
    if kernel == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=is_causal, attn_mask=added, scale=scale
        )
    if kernel == "flash":
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, is_causal=is_causal, scale=scale)[:2]
    if kernel == "efficient":
        attended, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, added, compute_log_sumexp=True, is_causal=is_causal, scale=scale
        )
        return attended, sums[..., : query.shape[2]]  # padded to a multiple of 32
    hidden = None if mask is None else ~mask
    if is_causal:
        hidden = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).triu(1)
    return _plain(query, key, value, hidden, scale, softcap, dropout)


def _added(mask: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """A mask (t, s) in the kernels' form: (n, H, t, s), added to the products."""
    tokens, keys = mask.shape
    added = query.new_zeros(tokens, -(-keys // MASK_WIDTH) * MASK_WIDTH)[:, :keys]
    return added.masked_fill_(~mask, HIDDEN).expand(*query.shape[:2], -1, -1)


def kernel_for(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, added: torch.Tensor | None, is_causal: bool) -> str:
    """`cpu`, `flash` (half precision), `efficient` (float32 as well), or `plain`, as device, type, widths and mask allow."""
    if query.device.type != "cuda":
        return "cpu" if query.device.type == "cpu" else "plain"
    parameters = SDPAParams(query, key, value, added, 0.0, is_causal, False)
    if can_use_flash_attention(parameters) and query.shape[-1] % FLASH_WIDTH == 0:
        return "flash"
    return "efficient" if can_use_efficient_attention(parameters) else "plain"


def masked_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attend`, for the last t of s tokens of each text, under a mask (n, 1, t, s), true where one may look; None hides the
    tokens after each. For short texts: products are stored in full, in float32 or better."""
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        mask = mask.tril(key.shape[2] - query.shape[2])
    return _plain(precise(query), precise(key), value, ~mask, scale, softcap, dropout)


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor | None,
    scale: float | None,
    softcap: float | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by products that are stored in full (n, H, t, s), without the hidden ones."""
    rows = max(PRODUCTS // (query.shape[0] * query.shape[1] * key.shape[2]), 1)
    if rows < query.shape[2] and not torch.is_grad_enabled():
        hiddens = [None] * query.shape[2] if hidden is None else hidden.split(rows, dim=-2)
        parts = [
            _plain(part, key, value, hidden_part, scale, softcap, dropout)
            for part, hidden_part in zip(query.split(rows, dim=2), hiddens, strict=False)
        ]
        return torch.cat([attended for attended, _ in parts], dim=2), torch.cat([sums for _, sums in parts], dim=2)
    products = precise(query @ key.transpose(-2, -1))
    products *= query.shape[-1] ** -0.5 if scale is None else scale
    if softcap is not None:
        products = softcap * (products / softcap).tanh()
    if hidden is not None:
        products.masked_fill_(hidden, torch.finfo(products.dtype).min)  # not infinite: padding on the left sees nothing else
    sums = products.logsumexp(-1)
    weights = (products - sums[..., None]).exp().to(value.dtype)
    return torch.dropout(weights, dropout, train=dropout > 0) @ value, sums


def beside(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to two sets of keys together, from attention to each, (..., d), and its sums (..., 1)."""
    weight = torch.sigmoid(other[1] - one[1])
    attended = torch.lerp(one[0].to(weight.dtype), other[0].to(weight.dtype), weight)
    return attended, torch.logaddexp(one[1], other[1])


def with_sinks(attended: torch.Tensor, sums: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Attention (..., H, d) with sums (..., H, 1), changed as if each head had one more key, without a value, whose product is
    its sink (H,) (Agarwal et al. 2025, arXiv:2508.10925; gpt-oss)."""
    return attended if sinks is None else attended * torch.sigmoid(sums - sinks[:, None]).to(attended.dtype)
