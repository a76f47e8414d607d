"""Texts side by side in one row: a model's inputs, and which models support it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import torch

from llmft.models.reading.attention import NAME
from llmft.models.wrapping import bare_model, forward_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASK_READERS = ("output_router_logits", "keep_window_size")
"""Settings of models that use the mask outside of attention: for balancing experts, for masks that depend on the text."""

ORDINARY = {"full_attention", "sliding_attention"}
"""Kinds of layers in which a text depends on what precedes it only through keys and values."""

SILENT = {"phimoe"}
"""Kinds that have windows but do not pass them to attention."""


def packed_batch(
    texts: Sequence[Sequence[int]], start: int = 0, *, shares: bool = False, counts: Sequence[int] | None = None, head: int = 0
) -> dict[str, torch.Tensor]:
    """Texts side by side, as arguments of a model whose attention is `NAME`.

    Args:
        texts: n token lists, none empty.
        start: position of each text's first token.
        shares: whether the model's cache carries shared keys (`with_shared`); attention fails if they do not arrive.
        counts: the number of each text's last tokens at which logits are read; None for one each.
        head: how many first tokens, the same in all texts, are in the row once; logits are read after them.

    Returns:
        `input_ids` and `position_ids` (1, T), `attention_mask` (1, 1, n, t): each token's place in the row, -1 after a text's
        end (twice if it `shares`: (1, 2, n, t)); `logits_to_keep` (A,): the places whose logits are read, in order. All int64.
    """
    lengths = torch.tensor([len(text) for text in texts])
    ends = head + (lengths - head).cumsum(0)
    column = torch.arange(int(lengths.max()))
    places = torch.where(column < lengths[:, None], (ends - lengths)[:, None] + column, -1)
    places[:, :head] = column[:head]
    positions = [torch.arange(head), *(torch.arange(head, len(text)) for text in texts)]
    return {
        "input_ids": torch.tensor([[*texts[0][:head], *(token for text in texts for token in text[head:])]]),
        "position_ids": start + torch.cat(positions)[None],
        "attention_mask": places.repeat(1, 2 if shares else 1, 1, 1),  # copied: overlapping memory cannot be pinned
        "logits_to_keep": last_places(ends, torch.tensor(counts or [1] * len(texts))),
    }


def common_head(texts: Sequence[Sequence[int]], counts: Sequence[int]) -> int:
    """How many first tokens of texts are in a row only once (`packed_batch`): their common beginning, up to where logits are
    read, as in chats with a system prompt; none if that saves less than one token in eight."""
    shortest = min(len(text) - count for text, count in zip(texts, counts, strict=True))
    columns = zip(*(text[:shortest] for text in texts), strict=True)
    head = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return head if 8 * head * (len(texts) - 1) >= sum(map(len, texts)) else 0


def last_places(ends: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(A,) the last `counts` (n,) places of segments that end before `ends` (n,), A = sum of the counts."""
    starts = (ends - counts.cumsum(0)).repeat_interleave(counts)
    return starts + torch.arange(len(starts))


def can_pack(model: torch.nn.Module) -> bool:
    """Whether texts may go through the model side by side; if so, its attention is prepared for it.

    It must be an ordinary transformer that uses transformers' attention interface and takes positions as an argument.
    """
    bare = bare_model(model)
    config = bare.config.get_text_config()
    able = (
        (bare.config._attn_implementation in ("sdpa", NAME) or _is_eager_for_want_of_kernels(bare))
        and bare._supports_attention_backend
        and depends_on_keys_alone(model)
        and not any(getattr(config, name, None) for name in MASK_READERS)
        and (not has_windows(model) or _tells_windows(bare))
        and {"position_ids", "logits_to_keep"} <= forward_parameters(bare)
    )
    if able:
        bare.config._attn_implementation = NAME
    return able


def depends_on_keys_alone(model: torch.nn.Module) -> bool:
    """Whether a token sees others only through attention: recurrent and linear layers run along a row, whatever its mask says."""
    bare = bare_model(model)
    return not bare._is_stateful and set(getattr(bare.config.get_text_config(), "layer_types", None) or ()) <= ORDINARY


def has_windows(model: torch.nn.Module) -> bool:
    """Whether there may be layers in which a token sees only the last tokens before it."""
    return getattr(bare_model(model).config.get_text_config(), "sliding_window", None) is not None


def _tells_windows(bare: PreTrainedModel) -> bool:
    """Whether each layer passes its window to attention, as flash attention needs it; a setting that the model's kind does not
    use says nothing about that."""
    config = bare.config.get_text_config()
    known = hasattr(type(config), "sliding_window") or "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return known and bare._supports_flash_attn and config.model_type not in SILENT


def _is_eager_for_want_of_kernels(bare: PreTrainedModel) -> bool:
    """Whether the model does not support sdpa because that lacks sinks and caps; it passes them to flash attention, which it
    supports."""
    return bare.config._attn_implementation == "eager" and not bare._supports_sdpa and bare._supports_flash_attn


def can_share_keys(model: torch.nn.Module) -> bool:
    """Whether packed texts can also attend to keys before the row: values must be as wide as keys, as kernels require."""
    return not hasattr(bare_model(model).config.get_text_config(), "v_head_dim")
