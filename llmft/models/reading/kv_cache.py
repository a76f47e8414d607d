"""Keys and values of a text, for reading others after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from llmft.models.reading.attention import NAME, with_shared
from llmft.models.reading.packing import can_pack, can_share_keys, depends_on_keys_alone, has_windows
from llmft.models.wrapping import bare_model, forward_parameters


class JoinBuffer:
    """Memory in which each layer in turn joins its keys and values, since allocating it for every layer takes time."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def joined(self, name: str, front: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """(1, G, P, d) and (1, G, T, d) -> (1, G, P + T, d), valid until the next call with this name."""
        length = front.shape[2]
        shape = (*front.shape[:2], length + new.shape[2], front.shape[3])
        held = self._held.get(name)
        if held is None or len(held) < math.prod(shape) or held.dtype != front.dtype:
            held = self._held[name] = front.new_empty(math.prod(shape))
        joined = held[: math.prod(shape)].view(shape)
        joined[:, :, :length], joined[:, :, length:] = front, new
        return joined


class ReadOnlyLayer(DynamicLayer):
    """Keys and values of one layer after which others are read, without gradients and without adding theirs."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, buffer: JoinBuffer | None, readers: torch.Tensor | None) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.buffer, self.readers = keys, values, buffer, readers

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The input of attention: the new keys (1, G, T, d), carrying these (1, G, P, d) or, given a buffer, joined to them;
        the same for values."""
        if self.buffer is None:
            return with_shared(key_states, self.keys, self.readers), with_shared(value_states, self.values, self.readers)
        return self.buffer.joined("keys", self.keys, key_states), self.buffer.joined("values", self.values, value_states)


def read_only(cache: DynamicCache, buffer: JoinBuffer | None = None, *, readers: torch.Tensor | None = None) -> DynamicCache:
    """The same keys and values in a cache that keeps nothing of what is read after it.

    Args:
        buffer: where they are joined with the new ones after them, which works with any attention; None to keep them separate,
            for `packed_attention`.
        readers: (A,) places in the row whose logits are read: in the last layer no other attends to these keys. None if that
            layer is not known.
    """
    copy = DynamicCache()
    copy.layers = [
        ReadOnlyLayer(layer.keys, layer.values, buffer, readers if layer is cache.layers[-1] else None) for layer in cache.layers
    ]
    return copy


@torch.no_grad()
def encode(
    model: torch.nn.Module, tokens: Sequence[int], *, behind: DynamicCache | None = None, chunk: int | None = None
) -> DynamicCache | None:
    """Keys and values of a text, from the bare model in eval mode (a batch of one); None if it has no plain cache, or there is
    no text.

    Args:
        behind: those of a text before it, to which this one's are added.
        chunk: maximum number of tokens that go through the model together; None for all.
    """
    if not tokens:
        return behind
    bare, windowed = bare_model(model), has_windows(model) and can_share(model)
    was_training, cache, start = bare.training, behind, behind.get_seq_length() if behind is not None else 0
    ids = torch.tensor([list(tokens)], device=next(bare.parameters()).device)
    bare.eval()
    try:
        for part in ids.split(chunk or len(tokens), dim=1):
            positions = torch.arange(start, start + part.shape[1], device=ids.device)[None] if cache is not None else None
            output = bare(input_ids=part, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, start = plain_cache(output.past_key_values, windowed=windowed), start + part.shape[1]
            if cache is None:
                break
    finally:
        bare.train(was_training)
    return cache


def plain_cache(cache: Any, *, windowed: bool = False) -> DynamicCache | None:
    """The cache if it consists of the keys and values of everything read and nothing else (no recurrent states), else None.

    Args:
        windowed: whether a layer may have only those within its window.
    """
    plain = {DynamicLayer, DynamicSlidingWindowLayer} if windowed else {DynamicLayer}
    return cache if type(cache) is DynamicCache and {type(layer) for layer in cache.layers} <= plain else None


def reads_behind_a_cache(model: torch.nn.Module) -> bool:
    """Whether the model accepts a cache, and takes the places of tokens after it only from explicit positions."""
    config = bare_model(model).config
    # these count distance along the row, whatever the positions say: Falcon with ALiBi, GPT-Neo
    by_index = getattr(config, "alibi", False) or "local" in getattr(config, "attention_layers", ())
    return not by_index and {"position_ids", "past_key_values", "logits_to_keep"} <= forward_parameters(model)


def can_share(model: torch.nn.Module) -> bool:
    """Whether this model reads texts after a shared cache the same as whole ones."""
    if has_windows(model):  # these are counted along the row, except by our attention
        return can_share_keys(model) and reads_behind_a_cache(model) and can_pack(model)
    if bare_model(model).config._attn_implementation not in ("sdpa", NAME, "eager"):  # others do not accept our mask
        return False
    return depends_on_keys_alone(model) and reads_behind_a_cache(model)


def kv_bytes_per_token(model: torch.nn.Module) -> int | None:
    """Bytes of keys and values that the model keeps per token; None if it keeps something else, or not for all tokens."""
    bare = bare_model(model)
    config = bare.config.get_text_config()
    if getattr(config, "sliding_window", None) is not None or not depends_on_keys_alone(model) or hasattr(config, "v_head_dim"):
        return None
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if hasattr(config, "new_decoder_architecture"):  # Falcon, which has names of its own
        heads = config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * bare.dtype.itemsize
