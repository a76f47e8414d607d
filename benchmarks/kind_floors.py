"""The least work that a model of any kind needs, counted as in `floors` for OPT, but with keys and values that heads share,
gated feed-forward parts, and windows.

A training step of LoRA needs the matrix products of two forward passes, since frozen weights have no gradients, and the
attention of three. A written token reads all weights once for the rows that are written together, and the preceding keys and
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.floors import FLOAT, Floor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def layer_weights(config: PreTrainedConfig) -> int:
    """Numbers in the matrices of one layer."""
    hidden, width, shared = config.hidden_size, _width(config), 2 * _shared_width(config)
    wide = 2 * config.ffn_dim if hasattr(config, "ffn_dim") else 3 * config.intermediate_size
    return hidden * (2 * width + shared + wide)


def weights(config: PreTrainedConfig) -> int:
    """Numbers in all matrices that a token goes through; the output layer is tied to the input embeddings."""
    return layer_weights(config) * config.num_hidden_layers + config.hidden_size * config.vocab_size


def cache_bytes(config: PreTrainedConfig, tokens: int) -> int:
    """Bytes of the keys and values of this many tokens before a text; in layers with a window, only those within it."""
    kept = sum(min(tokens, window - 1) for window in _windows(config, tokens + 1))
    return FLOAT * 2 * _shared_width(config) * kept


def attention_flops(config: PreTrainedConfig, lengths: Sequence[int], prefix: int = 0, counts: Sequence[int] = ()) -> int:
    """FLOPs of causal attention within texts, each after a prefix, to which in the last layer only its last `counts` tokens
    attend (one of each if empty)."""
    pairs, windows = 0, _windows(config, prefix + max(lengths))
    for layer, window in enumerate(windows):
        last = layer == len(windows) - 1
        for length, count in zip(lengths, counts or [1] * len(lengths), strict=True):
            ends = length - count if last else 0
            pairs += _pairs(0, ends, window) + _pairs(prefix + ends, prefix + length, window)
    return 4 * _width(config) * pairs


def forward(config: PreTrainedConfig, lengths: Sequence[int], prefix: int = 0, *, counts: Sequence[int] = ()) -> Floor:
    """Reading texts, each once, and the logits at the last `counts` tokens of each (one of each if empty)."""
    products = 2 * sum(lengths) * config.num_hidden_layers * layer_weights(config)
    answers = sum(counts) if counts else len(lengths)
    flops = products + attention_flops(config, lengths, prefix, counts) + 2 * config.hidden_size * config.vocab_size * answers
    numbers = weights(config) if answers else layer_weights(config) * config.num_hidden_layers
    return Floor(flops, FLOAT * numbers + cache_bytes(config, prefix))


def encoding(config: PreTrainedConfig, tokens: int) -> Floor:
    """Computing the keys and values of a text."""
    return forward(config, [tokens], counts=[0])


def lora_step(config: PreTrainedConfig, lengths: Sequence[int], counts: Sequence[int]) -> Floor:
    """A step of LoRA training, without LoRA's own products, a hundredth of these; the first layer's input has no gradient."""
    once = forward(config, lengths, counts=counts)
    attention = attention_flops(config, lengths, counts=counts)
    first = 2 * sum(lengths) * config.hidden_size * (_width(config) + 2 * _shared_width(config))
    return Floor(2 * once.flops + attention - first, 2 * once.bytes)


def writing(config: PreTrainedConfig, lengths: Sequence[int], prefix: int, tokens: int, rows: int) -> Floor:
    """Writing `tokens` tokens after each of some texts, which follow a prefix that is encoded already.

    Args:
        rows: how many are written together.
    """
    passes = -(-len(lengths) // rows) * (tokens - 1)
    grown = [length + tokens - 1 for length in lengths]
    flops = forward(config, grown, prefix, counts=[tokens] * len(grown)).flops
    once = FLOAT * weights(config) + cache_bytes(config, prefix)
    return Floor(flops, once * passes + once)


def _pairs(first: int, end: int, window: int) -> int:
    """Number of pairs of a token at these places of a text and a token that it sees."""
    within = max(min(end, window) - first, 0)  # those that see everything before them
    return within * (2 * first + within + 1) // 2 + (max(end - first, 0) - within) * window


def _windows(config: PreTrainedConfig, longest: int) -> list[int]:
    """How many tokens each layer sees."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [config.sliding_window if kind == "sliding_attention" else longest for kind in kinds]


def _width(config: PreTrainedConfig) -> int:
    return config.num_attention_heads * _head(config)


def _shared_width(config: PreTrainedConfig) -> int:
    """Numbers in the keys of one token."""
    return (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * _head(config)


def _head(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
