"""What prompts cost at inference, with a context and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmft.models.reading.kv_cache import kv_bytes_per_token

if TYPE_CHECKING:
    import torch


def prompt_sizes(tokens: Mapping[str, float], model: torch.nn.Module) -> dict[str, Any]:
    """`tokens_per_query` and `kv_bytes_per_query` for `metrics.json`: tokens of a prompt, and bytes of their keys and values.

    Args:
        tokens: who reads the prompts -> mean tokens.
    """
    each = kv_bytes_per_token(model)
    sizes = {} if each is None else {"kv_bytes_per_query": {who: each * number for who, number in tokens.items()}}
    return {"tokens_per_query": dict(tokens), **sizes}
