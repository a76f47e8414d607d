"""The cost of prompts at inference, with and without a context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmft.evaluation.scores import Scores


def student_tokens(before: Scores, after: Scores) -> dict[str, float]:
    """Mean tokens of a student's prompts, and `before` training if virtual tokens have been added."""
    adds = before.tokens_per_query != after.tokens_per_query
    return {"student": after.tokens_per_query, **({"before": before.tokens_per_query} if adds else {})}


def prompt_sizes(tokens: Mapping[str, float], token_bytes: Mapping[str, int | None]) -> dict[str, Any]:
    """`tokens_per_query` and `kv_bytes_per_query` for `metrics.json`: tokens of a prompt, and bytes of its keys and values.

    Args:
        tokens: role -> mean number of tokens of its prompts.
        token_bytes: role -> bytes of one token's keys and values (`kv_bytes_per_token`); None if the model stores something else.
            Those of `before` are the student's.
    """
    each = {who: token_bytes["student" if who == "before" else who] for who in tokens}
    sizes = {who: each[who] * number for who, number in tokens.items() if each[who] is not None}
    return {"tokens_per_query": dict(tokens), **({"kv_bytes_per_query": sizes} if sizes else {})}
