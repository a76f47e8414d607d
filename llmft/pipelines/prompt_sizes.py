"""The cost of prompts at inference, with and without a context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prompt_sizes(tokens: Mapping[str, float], token_bytes: Mapping[str, int | None]) -> dict[str, Any]:
    """`tokens_per_query` and `kv_bytes_per_query` for `metrics.json`: tokens of a prompt, and bytes of its keys and values.

    Args:
        tokens: role -> mean number of tokens of its prompts.
        token_bytes: role -> bytes of one token's keys and values (`kv_bytes_per_token`); None if the model stores something else.
    """
    sizes = {who: token_bytes[who] * number for who, number in tokens.items() if token_bytes[who] is not None}
    return {"tokens_per_query": dict(tokens), **({"kv_bytes_per_query": sizes} if sizes else {})}
