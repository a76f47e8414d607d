"""Batches of texts that grow by one token at a time after shared keys and values.

transformers' `generate` wants keys and values for every row of a batch: for a prefix of P tokens before B rows, they would be
stored B times, and copied for every token. Here they are stored once, apart from the rows' own: attention to the prefix is one
product for all rows, and is combined with each row's attention to itself as in `packing`. The cache does not mention the prefix,
so masks cover only the rows; positions have to be explicit.

Attention other than transformers' sdpa gets the prefix before each row. It is expanded without a copy, and then copied with
the rows' keys as these grow, in each layer for each token: 2 * B * P * G * d numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import sdpa_mask

from llmft.models.reading.attention import Front, LostKeysError, check_known, shared_by, with_shared
from llmft.models.reading.softmax import masked_attend
from llmft.models.wrapping import forward_parameters, unwrapped, virtual_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "beside_shared_keys"
"""Name among transformers' implementations of attention."""


class GrowingLayer(DynamicLayer):
    """Keys and values (B, G, t, d) of one layer, with separate shared ones (1, G, P, d)."""

    def __init__(self, shared_keys: torch.Tensor, shared_values: torch.Tensor) -> None:
        super().__init__()
        self.shared = (shared_keys, shared_values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows' keys and values, including the new ones; they carry the shared ones to `batch_attention`."""
        own = super().update(key_states, value_states)
        keys, values = (with_shared(tensor, shared) for tensor, shared in zip(own, self.shared, strict=True))
        return keys, values


def inputs_behind(
    model: torch.nn.Module, cache: DynamicCache | None, batch: dict[str, torch.Tensor], *, beside: bool
) -> dict[str, Any]:
    """Arguments with which the bare model reads B rows, from `left_pad`, after whatever comes before them.

    Args:
        cache: keys and values of that, which do not change; None if the rows are whole prompts, which follow the model's
            virtual tokens, if it has any.
        beside: whether the model's attention is `batch_attention`; else the rows' own cache has them before each row.
    """
    mask, (rows, _) = batch["attention_mask"], batch["input_ids"].shape
    if cache is None and virtual_tokens(model):
        wrapped = unwrapped(model)
        return wrapped.inputs_behind(wrapped.get_prompt(rows), batch["input_ids"], mask)
    if cache is None:
        accepted = forward_parameters(model)
        return {name: tensor for name, tensor in batch.items() if name in accepted}
    front, own = cache.get_seq_length(), DynamicCache()
    own.layers = [GrowingLayer(layer.keys, layer.values) if beside else _expanded(layer, rows) for layer in cache.layers]
    if not beside:
        mask = torch.cat([mask.new_ones(rows, front), mask], dim=1)
    return {**batch, "attention_mask": mask, "position_ids": batch["position_ids"] + front, "past_key_values": own}


def _expanded(layer: DynamicLayer, rows: int) -> DynamicLayer:
    copy = DynamicLayer()
    copy.lazy_initialization(layer.keys, layer.values)
    copy.keys, copy.values = (tensor.expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values))
    return copy


@contextmanager
def attends_beside(bare: PreTrainedModel) -> Iterator[None]:
    """Context manager: the model's attention is `batch_attention`; the model must satisfy `packing.can_pack`."""
    before = bare.config._attn_implementation
    bare.config._attn_implementation = NAME
    try:
        yield
    finally:
        bare.config._attn_implementation = before


def batch_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form, without gradients and dropout.

    Args:
        query: (B, H, T, d), the last T of t tokens.
        key, value: (B, G, t, d), G a divisor of H, `with_shared` (1, G, P, d), to which all tokens attend.
        attention_mask: (B, 1, T, t) bool, true where a token may attend to one of its own row; None for all up to itself.
        sliding_window, softcap, s_aux: as for `attention.packed_attention`.

    Returns:
        (B, T, H, d), and None for the weights.

    Raises:
        LostKeysError: the shared keys are missing.
    """
    shared = [shared_by(tensor, tensor.shape[2]) for tensor in (key, value)]
    if any(front is None for front in shared):
        raise LostKeysError(type(module).__name__)
    check_known(module, kwargs)
    (batch, heads, tokens, _), group = query.shape, query.shape[1] // key.shape[1]
    own = masked_attend(query, repeat_kv(key, group), repeat_kv(value, group), attention_mask, scaling, softcap)
    row = query.transpose(0, 1).flatten(1, 2)[None]  # (1, H, B * T, d): for shared keys all rows are one
    text, text_sum = (part.transpose(1, 2).flatten(0, 1) for part in (own[0], own[1][..., None]))
    front = Front(*shared, sliding_window, scaling, softcap, s_aux)
    places = None if front.is_all_seen(key.shape[2]) else _places(attention_mask, batch, tokens, key)
    attended = front.put_together(row, text, text_sum, places)
    return attended.view(batch, tokens, heads, -1), None


def _places(mask: torch.Tensor | None, batch: int, tokens: int, key: torch.Tensor) -> torch.Tensor:
    """(B * T,) how many previous tokens of its own row each sees: all of them, or it sees none before the row."""
    if mask is None:
        return torch.arange(key.shape[2] - tokens, key.shape[2], device=key.device).repeat(batch)
    return mask.sum(-1).flatten() - 1


AttentionInterface.register(NAME, batch_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
