"""What prompts cost at inference, with a context and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prompt_sizes(tokens: Mapping[str, float], token_bytes: Mapping[str, int | None]) -> dict[str, Any]:
    """`tokens_per_query` and `kv_bytes_per_query` for `metrics.json`: tokens of a prompt, and bytes of their keys and values.

    Args:
        tokens: who reads the prompts -> mean tokens.
        token_bytes: who -> bytes of one token's keys and values (`kv_bytes_per_token`); None where a model keeps something else.
    """
    sizes = {who: token_bytes[who] * number for who, number in tokens.items() if token_bytes[who] is not None}
    return {"tokens_per_query": dict(tokens), **({"kv_bytes_per_query": sizes} if sizes else {})}
