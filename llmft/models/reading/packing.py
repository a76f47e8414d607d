"""Attention over texts that lie side by side in one row: each at the cost it has alone, no padding, no mask over the row.

n texts of T tokens in all go through the layers as one row of T. Only attention sees them apart: each looks at itself, and at P
keys and values in front of the row, if there are any, which all share. That takes n * t^2 + T * P scores (t the longest text)
where a mask over the row would take T * (T + P). Behind shared keys the two parts are put together by their softmax sums (as in
Juravsky et al. 2024, arXiv:2402.05099):

    out = w * out_shared + (1 - w) * out_text,    w = Z_shared / (Z_shared + Z_text)

The sums come from the fused kernels behind torch's `scaled_dot_product_attention`, which keeps them to itself.
In the last layer only the tokens whose logits are read look at the shared keys: what the others would get there goes nowhere.

The model gets the texts' places as `attention_mask`, which transformers hands on to attention as it is if it has four dimensions.
Shared keys reach attention beside the row's: to lay them out in front of it would copy them for every batch and layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llmft.models.wrapping import bare_model, forward_parameters, precise

NAME = "packed_sdpa"
"""Name among transformers' implementations of attention. For any other mask it is `sdpa`."""

MASK_READERS = ("output_router_logits", "keep_window_size")
"""Settings of models that read the mask outside of attention: for the balance of experts, for masks that depend on the text."""

UNKNOWN = ("softcap", "position_bias", "s_aux")
"""Changes of attention that packed rows do not know."""

LENGTHS = 4
"""Texts of unequal lengths look at themselves in so many groups, each padded to its longest."""

FLASH_WIDTH = 8
"""Flash attention on GPUs reads heads by so many numbers."""

ORDINARY = {"full_attention", "sliding_attention"}
"""Kinds of layers in which a text that fits the window depends on nothing in front of it but keys and values."""


class LostKeysError(Exception):
    """A model does something to the keys between its cache and attention, and shared ones did not come with them."""


def with_shared(new: torch.Tensor, shared: torch.Tensor, readers: torch.Tensor | None = None) -> torch.Tensor:
    """A row's keys or values (1, G, T, d), which bring the shared ones (1, G, P, d) along to `packed_attention`.

    Only this very tensor brings them: whatever is made of it is without, so that attention never sees one of the two changed.

    Args:
        readers: (A,) the only places in the row that need to look at the shared keys; None for all.
    """
    new = new.view_as(new)
    new.llmft_shared, new.llmft_readers = shared, readers
    return new


def packed_batch(
    texts: Sequence[Sequence[int]], start: int = 0, *, shares: bool = False, counts: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """Texts side by side, as arguments of a model whose attention is `NAME`.

    Args:
        texts: n token lists, none empty.
        start: position of each text's first token.
        shares: whether the model's cache brings shared keys along (`with_shared`); attention fails where they do not arrive.
        counts: at how many of each text's last tokens logits are read; None for one of each.

    Returns:
        `input_ids` and `position_ids` (1, T), `attention_mask` (1, 1, n, t): each token's place in the row, -1 behind a text's
        end (twice if it `shares`: (1, 2, n, t)); `logits_to_keep` (A,): the places whose logits are read, in order. All int64.
    """
    lengths = torch.tensor([len(text) for text in texts])
    ends = lengths.cumsum(0)
    column = torch.arange(int(lengths.max()))
    places = torch.where(column < lengths[:, None], (ends - lengths)[:, None] + column, -1)
    return {
        "input_ids": torch.tensor([[token for text in texts for token in text]]),
        "position_ids": torch.cat([torch.arange(start, start + len(text)) for text in texts])[None],
        "attention_mask": places.repeat(1, 2 if shares else 1, 1, 1),  # copied: what lies twice in one place cannot be pinned
        "logits_to_keep": last_places(ends, torch.tensor(counts or [1] * len(texts))),
    }


def last_places(ends: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(A,) the last `counts` (n,) places of stretches that end in front of `ends` (n,), A = sum of the counts."""
    starts = (ends - counts.cumsum(0)).repeat_interleave(counts)
    return starts + torch.arange(len(starts))


def can_pack(model: torch.nn.Module, longest: int) -> bool:
    """Whether texts of up to `longest` tokens may go through the model side by side; if so its attention is made ready for it.

    It must be an ordinary transformer that takes attention from transformers' table, as sdpa, and positions as an argument.
    """
    bare = bare_model(model)
    config = bare.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    able = (
        bare.config._attn_implementation in ("sdpa", NAME)
        and bare._supports_attention_backend
        and depends_on_keys_alone(model)
        and not any(getattr(config, name, None) for name in MASK_READERS)
        and (window is None or longest <= window)
        and {"position_ids", "logits_to_keep"} <= forward_parameters(bare)
    )
    if able:
        bare.config._attn_implementation = NAME
    return able


def depends_on_keys_alone(model: torch.nn.Module) -> bool:
    """Whether a token sees others by attention alone: recurrent and linear layers run along a row, whatever its mask says."""
    bare = bare_model(model)
    return not bare._is_stateful and set(getattr(bare.config.get_text_config(), "layer_types", None) or ()) <= ORDINARY


def can_share_keys(model: torch.nn.Module) -> bool:
    """Whether packed texts can look at keys in front of the row too: where values are as wide as keys, as kernels ask for."""
    return not hasattr(bare_model(model).config.get_text_config(), "v_head_dim")


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form.

    Args:
        query: (1, H, T, d).
        key, value: (1, G, T, d), G a divisor of H, possibly `with_shared` (1, G, P, d); or (1, G, P + T, d), the shared ones in
            front. P > 0 goes without gradients and dropout.
        attention_mask: what `packed_batch` returns, or any that `sdpa` takes.

    Returns:
        (1, T, H, d), and None for the weights. Where the keys name `readers`, only those have looked at shared keys.

    Raises:
        LostKeysError: the mask says that there are shared keys, and they are not there.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    check_known(module, kwargs)
    heads_per_key, row = query.shape[1] // key.shape[1], query.shape[2]
    shared = [shared_by(tensor, row) for tensor in (key, value)]
    if attention_mask.shape[1] == 2 and any(front is None for front in shared):
        raise LostKeysError(type(module).__name__)
    parts = _alike(attention_mask[0, 0])
    blocks = [[_blocks(tensor[:, :, -row:], places) for tensor in (query, key, value)] for places in parts]  # (n, heads, t, d)
    blocks = [(q, repeat_kv(k, heads_per_key), repeat_kv(v, heads_per_key)) for q, k, v in blocks]
    if shared[0] is None:
        texts = [scaled_dot_product_attention(*b, dropout_p=dropout, is_causal=True, scale=scaling) for b in blocks]
        return _row(texts, parts, row)[None], None
    texts, sums = zip(*(attend(*b, is_causal=True, scale=scaling) for b in blocks), strict=True)
    text, text_sum = _row(texts, parts, row), _row([total[..., None] for total in sums], parts, row)
    readers = getattr(key, "llmft_readers", None)
    if readers is None:
        return with_front(query, *shared, text, text_sum, scaling)[None], None
    behind = with_front(query.index_select(2, readers), *shared, text[readers], text_sum[readers], scaling)
    return text.index_copy(0, readers, behind)[None], None


def check_known(module: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
    """Check that attention is asked for nothing that packed rows do not know."""
    if any(arguments.get(name) is not None for name in UNKNOWN):
        raise ValueError(f"{type(module).__name__} asks for one of {', '.join(UNKNOWN)}: use --attn_implementation eager")


def with_front(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, text: torch.Tensor, text_sum: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Put together attention of tokens to their own texts and to what stands in front of all.

    Args:
        query: (1, H, T, d).
        key, value: the shared ones, (1, G, P, d).
        text, text_sum: attention to their own texts (T, H, d), and the logarithms of its softmax sums (T, H, 1).

    Returns:
        (T, H, d).
    """
    heads, row, width = query.shape[1:]
    folded = query.reshape(1, key.shape[1], -1, width)  # query heads that share keys lie behind one another
    front, front_sum = attend(folded, key, value, scale=scaling)
    front, front_sum = front.reshape(heads, row, width).transpose(0, 1), front_sum.reshape(heads, row, 1).transpose(0, 1)
    weight = torch.sigmoid(front_sum - text_sum)
    return torch.lerp(text.to(weight.dtype), front.to(weight.dtype), weight).to(query.dtype)


def shared_by(tensor: torch.Tensor, row: int) -> torch.Tensor | None:
    """What keys or values of a row of so many tokens bring along or have in front of them."""
    return tensor[:, :, :-row] if tensor.shape[2] > row else getattr(tensor, "llmft_shared", None)


def _alike(places: torch.Tensor) -> list[torch.Tensor]:
    """The places of texts (n, t), parted into a few groups of texts nearly equally long where that saves work.

    Only on a CPU, where lengths can be looked at without a wait and many small products are as fast as a large one.
    """
    if places.device.type != "cpu" or len(places) < 2 * LENGTHS:
        return [places]
    lengths, order = (places >= 0).sum(1).sort()
    cut = [(which, int(length[-1])) for which, length in zip(order.chunk(LENGTHS), lengths.chunk(LENGTHS), strict=True)]
    if sum(len(which) * longest**2 for which, longest in cut) > 0.8 * places.shape[0] * places.shape[1] ** 2:
        return [places]
    return [places[which, :longest] for which, longest in cut]


def _blocks(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, H, T, d) -> (n, H, t, d); behind a text's end stands anything, which no real token looks at."""
    rows = tensor[0].transpose(0, 1).flatten(1)
    return rows.index_select(0, places.clamp(min=0).flatten()).view(*places.shape, tensor.shape[1], -1).transpose(1, 2)


def _row(blocks: Sequence[torch.Tensor], places: Sequence[torch.Tensor], row: int) -> torch.Tensor:
    """Groups of (n, H, t, d) -> (T, H, d): the inverse of `_blocks`."""
    where = torch.cat([part.flatten() for part in places])
    inverse = torch.empty(row + 1, dtype=torch.int64, device=where.device)
    inverse[torch.where(where < 0, row, where)] = torch.arange(len(where), device=where.device)
    return torch.cat([block.transpose(1, 2).flatten(0, 1) for block in blocks]).index_select(0, inverse[:row])


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, is_causal: bool = False, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and its softmax sums, without dropout, by torch's fused kernels where one fits.

    Args:
        query: (n, H, t, d).
        key, value: (n, H, s, d).
        is_causal: whether token i looks at the first i + 1 keys alone; s is t then.
        scale: of the products; None for 1 / sqrt(d).

    Returns:
        (n, H, t, d), and (n, H, t) in float32 or better: log of the sum over keys of exp(scale * product).
    """
    kernel = kernel_for(query, key, value, is_causal)
    if kernel == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, is_causal=is_causal, scale=scale)
    if kernel == "flash":
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, is_causal=is_causal, scale=scale)[:2]
    if kernel == "efficient":
        attended, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, compute_log_sumexp=True, is_causal=is_causal, scale=scale
        )
        return attended, sums[..., : query.shape[2]]  # filled up to a multiple of 32
    hidden = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).triu(1) if is_causal else None
    return _plain(query, key, value, hidden, scale)


def kernel_for(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool) -> str:
    """`cpu`, `flash` (half precision), `efficient` (float32 as well), or `plain`, as device, type and widths allow."""
    if query.device.type != "cuda":
        return "cpu" if query.device.type == "cpu" else "plain"
    parameters = SDPAParams(query, key, value, None, 0.0, is_causal, False)
    if can_use_flash_attention(parameters) and query.shape[-1] % FLASH_WIDTH == 0:
        return "flash"
    return "efficient" if can_use_efficient_attention(parameters) else "plain"


def masked_attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attend`, of the last t of s tokens of each text, where a mask (n, 1, t, s), true where one may look, hides others; None
    hides those behind each. For short texts: products are kept whole, in float32 or better."""
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        mask = mask.tril(key.shape[2] - query.shape[2])
    return _plain(precise(query), precise(key), value, ~mask, scale)


def _plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, hidden: torch.Tensor | None, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by products that are kept whole (n, H, t, s), but for those that are hidden."""
    products = precise(query @ key.transpose(-2, -1))
    products *= query.shape[-1] ** -0.5 if scale is None else scale
    if hidden is not None:
        products.masked_fill_(hidden, torch.finfo(products.dtype).min)  # not infinite: padding on the left sees nothing else
    sums = products.logsumexp(-1)
    return (products - sums[..., None]).exp().to(value.dtype) @ value, sums


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
