"""Attention over texts that are side by side in one row: each costs what it costs alone, without padding or a mask over the row.

n texts with T tokens in total go through the layers as one row of T; their common beginning may be in it once. Only attention
separates them: each attends to itself, and to P shared keys and values before the row, if there are any. This takes
n * t^2 + T * P scores (t is the longest text), while a mask over the row would take T * (T + P). With shared keys the two parts
are combined by their softmax sums (as in Juravsky et al. 2024, arXiv:2402.05099):

    out = w * out_shared + (1 - w) * out_text,    w = Z_shared / (Z_shared + Z_text)

In the last layer only the tokens whose logits are read attend to the shared keys: the others' results there are not used.
In a layer with a window of W tokens each token sees the last W of its own prompt, including shared ones, whatever else is in the
row. Only the last W - 1 shared keys are used, and a mask hides those that are too far from a token: T * min(P, W - 1) scores. A
text longer than W also attends to itself through a mask: all of its t^2 scores are computed.

The model gets the texts' places as `attention_mask`, which transformers passes to attention unchanged if it has four dimensions.
Shared keys reach attention separately from the row's: putting them before the row would copy them for every batch and layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from llmft.models.reading.softmax import attend, beside, masked_attend, with_sinks

NAME = "packed_sdpa"
"""Name among transformers' implementations of attention. For any other mask it is `sdpa`."""

UNKNOWN = ("position_bias",)
"""Variants of attention that packed rows do not support."""

LENGTHS = 4
"""Number of groups in which texts of unequal lengths attend to themselves, each group padded to its longest."""


class LostKeysError(Exception):
    """A model changes the keys between its cache and attention, and the shared ones were lost."""


def with_shared(new: torch.Tensor, shared: torch.Tensor, readers: torch.Tensor | None = None) -> torch.Tensor:
    """A row's keys or values (1, G, T, d), which carry the shared ones (1, G, P, d) to `packed_attention`.

    Only this very tensor carries them, not tensors computed from it, so that attention never sees only one of the two changed.

    Args:
        readers: (A,) the only places in the row that need to attend to the shared keys; None for all.
    """
    new = new.view_as(new)
    new.llmft_shared, new.llmft_readers = shared, readers
    return new


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form.

    Args:
        query: (1, H, T, d).
        key, value: (1, G, T, d), G a divisor of H, possibly `with_shared` (1, G, P, d); or (1, G, P + T, d), the shared ones
            first. P > 0 requires no gradients and no dropout.
        attention_mask: the places that `packed_batch` returns (int64), the distances that `continuations.masked_row` returns for
            models with windows (int32), or any mask that `sdpa` takes.
        sliding_window: how many of a prompt's tokens a token sees, the last of which is itself; None for all.
        softcap: as for `softmax.attend`.
        s_aux: sinks (H,), as for `softmax.with_sinks`.

    Returns:
        (1, T, H, d), and None for the weights. If the keys name `readers`, only these have attended to shared keys.

    Raises:
        LostKeysError: the mask says that there are shared keys, but they are missing.
    """
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        key, value, attention_mask = within_window(query, key, value, attention_mask, sliding_window)
    if attention_mask is None and 1 < query.shape[2] < key.shape[2]:  # `sdpa` would take the queries for the first tokens
        places = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = places.tril(key.shape[2] - query.shape[2])
    if attention_mask is None or attention_mask.dtype != torch.int64:
        if softcap is None and s_aux is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        return _plain_attention(query, key, value, attention_mask, dropout, scaling, softcap, s_aux, **kwargs)
    check_known(module, kwargs)
    heads_per_key, row = query.shape[1] // key.shape[1], query.shape[2]
    shared = [shared_by(tensor, row) for tensor in (key, value)]
    if attention_mask.shape[1] == 2 and any(front is None for front in shared):
        raise LostKeysError(type(module).__name__)
    parts = _alike(attention_mask[0, 0])
    blocks = [[_blocks(tensor[:, :, -row:], places) for tensor in (query, key, value)] for places in parts]  # (n, heads, t, d)
    blocks = [(q, repeat_kv(k, heads_per_key), repeat_kv(v, heads_per_key)) for q, k, v in blocks]
    masks = [_looks_back(q.shape[2], sliding_window, q.device) for q, _, _ in blocks]
    if shared[0] is None and softcap is None and s_aux is None:
        texts = [
            scaled_dot_product_attention(*b, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling)
            for b, mask in zip(blocks, masks, strict=True)
        ]
        return _row(texts, parts, row)[None], None
    texts, sums = zip(
        *(
            attend(*b, is_causal=mask is None, mask=mask, scale=scaling, softcap=softcap, dropout=dropout)
            for b, mask in zip(blocks, masks, strict=True)
        ),
        strict=True,
    )
    text, text_sum = _row(texts, parts, row), _row([total[..., None] for total in sums], parts, row)
    if shared[0] is None:
        return with_sinks(text, text_sum, s_aux)[None], None
    front = Front(*shared, sliding_window, scaling, softcap, s_aux)
    places = None if front.is_all_seen(attention_mask.shape[-1]) else _places_in_texts(parts, row)
    readers = getattr(key, "llmft_readers", None)
    if readers is None:
        return front.put_together(query, text, text_sum, places)[None], None
    behind = front.put_together(
        query.index_select(2, readers), text[readers], text_sum[readers], None if places is None else places[readers]
    )
    return text.index_copy(0, readers, behind)[None], None


def check_known(module: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
    """Check that attention is not asked for anything that packed rows do not support."""
    if any(arguments.get(name) is not None for name in UNKNOWN):
        raise ValueError(f"{type(module).__name__} asks for one of {', '.join(UNKNOWN)}: use --attn_implementation eager")


class Front:
    """Keys and values before all texts, and how to attend to them.

    Args:
        key, value: (1, G, P, d), of all previous tokens or of the last of them; those beyond the window are left out.
        window, scale, softcap, sinks: as for `packed_attention`.
    """

    def __init__(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        scale: float | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> None:
        first = 0 if window is None else max(key.shape[2] - max(window - 1, 1), 0)  # at least one: kernels do not accept none
        self.key, self.value = key[:, :, first:], value[:, :, first:]
        self.window, self.scale, self.softcap, self.sinks = window, scale, softcap, sinks

    def is_all_seen(self, longest: int) -> bool:
        """Whether a text of this many tokens sees all of it, even from its last token."""
        return self.window is None or self.key.shape[2] + longest <= self.window

    def put_together(
        self, query: torch.Tensor, text: torch.Tensor, text_sum: torch.Tensor, places: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention of tokens to their own texts and to this, combined.

        Args:
            query: (1, H, T, d).
            text, text_sum: attention to their own texts (T, H, d), and the logarithms of its softmax sums (T, H, 1).
            places: (T,) how many tokens of its own text come before each; None if all of this is seen.

        Returns:
            (T, H, d).
        """
        (heads, row, width), (groups, count) = query.shape[1:], self.key.shape[1:3]
        mask = None
        if places is not None:
            distance = torch.arange(count, 0, -1, device=query.device) + places[:, None]
            mask = (distance < self.window).repeat(heads // groups, 1)
        folded = query.reshape(1, groups, -1, width)  # query heads that share keys are consecutive
        front, front_sum = attend(folded, self.key, self.value, mask=mask, scale=self.scale, softcap=self.softcap)
        front, front_sum = front.reshape(heads, row, width).transpose(0, 1), front_sum.reshape(heads, row, 1).transpose(0, 1)
        return with_sinks(*beside((text, text_sum), (front, front_sum)), self.sinks).to(query.dtype)


def within_window(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, distances: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The keys and values (1, G, K, d) that any of the last T of K tokens sees, and a mask (1, 1, T, ...) of those that each
    sees.

    Args:
        distances: (1, 1, T, at least K) int32, for the last keys of a row: how far before a token each is in the token's own
            prompt, -1 if it is in another.
    """
    row, count = query.shape[2], key.shape[2]
    first = 0 if window is None else max(count - row - (window - 1), 0)
    distances = distances[..., distances.shape[-1] - count + first :]
    seen = (distances >= 0) if window is None else (distances >= 0) & (distances < window)
    return key[:, :, first:], value[:, :, first:], seen


def _plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The same as `sdpa`, with capped products and sinks, by products that are stored in full."""
    mask = mask >= 0 if mask is not None and mask.is_floating_point() else mask  # additive masks: 0 where a key may be seen
    group = query.shape[1] // key.shape[1]
    attended, sums = masked_attend(query, repeat_kv(key, group), repeat_kv(value, group), mask, scaling, softcap, dropout)
    attended = with_sinks(attended.transpose(1, 2), sums.transpose(1, 2)[..., None], sinks)
    return attended.to(query.dtype), None


def _looks_back(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """(t, t) whether token i of a text attends to token j, if not all tokens before it are within the window; else None."""
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)


def _places_in_texts(parts: Sequence[torch.Tensor], row: int) -> torch.Tensor:
    """(T,) the index of each token of a row in its own text."""
    where = torch.cat([part.flatten() for part in parts])
    columns = torch.cat([torch.arange(part.shape[1], device=part.device).repeat(len(part)) for part in parts])
    places = torch.empty(row + 1, dtype=torch.int64, device=where.device)
    places[torch.where(where < 0, row, where)] = columns
    return places[:row]


def shared_by(tensor: torch.Tensor, row: int) -> torch.Tensor | None:
    """The shared keys or values that those of a row of this many tokens carry, or have before them."""
    return tensor[:, :, :-row] if tensor.shape[2] > row else getattr(tensor, "llmft_shared", None)


def _alike(places: torch.Tensor) -> list[torch.Tensor]:
    """The places of texts (n, t), divided into a few groups of texts of similar length if that saves work.

    Only on a CPU, where reading lengths needs no waiting and many small products are as fast as a large one.
    """
    if places.device.type != "cpu" or len(places) < 2 * LENGTHS:
        return [places]
    lengths, order = (places >= 0).sum(1).sort()
    cut = [(which, int(length[-1])) for which, length in zip(order.chunk(LENGTHS), lengths.chunk(LENGTHS), strict=True)]
    if sum(len(which) * longest**2 for which, longest in cut) > 0.8 * places.shape[0] * places.shape[1] ** 2:
        return [places]
    return [places[which, :longest] for which, longest in cut]


def _blocks(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, H, T, d) -> (n, H, t, d); values after a text's end are arbitrary, and no real token attends to them."""
    rows = tensor[0].transpose(0, 1).flatten(1)
    return rows.index_select(0, places.clamp(min=0).flatten()).view(*places.shape, tensor.shape[1], -1).transpose(1, 2)


def _row(blocks: Sequence[torch.Tensor], places: Sequence[torch.Tensor], row: int) -> torch.Tensor:
    """Groups of (n, H, t, d) -> (T, H, d): the inverse of `_blocks`. A common beginning is the same in all texts, and taken
    from one of them."""
    where = torch.cat([part.flatten() for part in places])
    inverse = torch.full((row + 1,), len(where), dtype=torch.int64, device=where.device)
    inverse.scatter_reduce_(0, torch.where(where < 0, row, where), torch.arange(len(where), device=where.device), "amin")
    return torch.cat([block.transpose(1, 2).flatten(0, 1) for block in blocks]).index_select(0, inverse[:row])


def positional_mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    local_size: int | None = None,
    attention_mask: torch.Tensor | None = None,
    use_vmap: bool = False,
    **arguments: Any,
) -> torch.Tensor | None:
    """`sdpa_mask`, with windows counted in tokens: there may be padding between a cartridge and a prompt."""
    lengths = {"q_length": q_length, "kv_length": kv_length, "q_offset": q_offset, "kv_offset": kv_offset}
    arguments |= {**lengths, "attention_mask": attention_mask}
    mask = sdpa_mask(**arguments, local_size=local_size, use_vmap=use_vmap)
    if mask is None or local_size is None or attention_mask is None or use_vmap:
        return mask
    seen = sdpa_mask(**{**arguments, "mask_function": causal_mask_function, "allow_is_causal_skip": False})
    places = attention_mask.cumsum(1)
    queries, keys = places[:, q_offset : q_offset + q_length], places[:, kv_offset : kv_offset + kv_length]
    return seen & (queries[:, None, :, None] - keys[:, None, None, :] < local_size)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, positional_mask)
