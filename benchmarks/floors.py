"""The least work that a task needs, from its token counts; measured times are compared with it.

FLOPs of a forward pass of a decoder layer (a multiply and an add are two):
 - matrix products: 2 per weight and token, with 4 h^2 + 2 h f weights a layer (h hidden size, f width of the feed-forward part);
 - attention: 4 h for each pair of a token and a token it attends to (2 h for the score, 2 h for the weighted sum); in the
   last layer only a text's last token attends to an encoded prefix, as in llmft;
 - output layer: 2 h V at each position where an answer is read.
A training step needs three times that: gradients take two matrix products where the forward pass takes one (the 6N rule, with
attention counted as well). Each token goes once through each layer; padding is not needed. In the last layer, tokens whose
logits are not read need no query and no feed-forward part (7 % of OPT-125m's products): these are counted, since no model of
transformers skips them. Norms, activations, the optimizer's arithmetic and the softmax are not counted: they cost time but hardly
any FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.world import Shape

FLOAT = 4
"""Bytes per number."""


@dataclass(frozen=True)
class Floor:
    """The fewest FLOPs, and the bytes that must be read or written, for some work."""

    flops: int
    bytes: int

    def __add__(self, other: Floor) -> Floor:
        return Floor(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, rates: dict[str, float]) -> float:
        """The time it takes at the machine's measured rates: the longer of computing and reading."""
        return max(self.flops / rates["flops_per_s"], self.bytes / rates["bytes_per_s"])

    def as_dict(self, rates: dict[str, float]) -> dict[str, Any]:
        """For the results file."""
        bound = "FLOPs" if self.flops / rates["flops_per_s"] >= self.bytes / rates["bytes_per_s"] else "bytes"
        return {"flops": self.flops, "bytes": self.bytes, "seconds": self.seconds(rates), "bound_by": bound}


def matrix_flops(shape: Shape, tokens: int) -> int:
    """FLOPs of the matrix products of all layers."""
    return 2 * tokens * shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.feed_forward)


def attention_flops(shape: Shape, lengths: Sequence[int], prefix: int = 0) -> int:
    """FLOPs of causal attention within texts of these lengths, each after a prefix that it attends to (see above)."""
    within = shape.layers * sum(n * (n + 1) // 2 for n in lengths)
    before = ((shape.layers - 1) * sum(lengths) + len(lengths)) * prefix
    return 4 * shape.hidden * (within + before)


def answer_flops(shape: Shape, answers: int) -> int:
    """FLOPs of the output layer at the answers' positions."""
    return 2 * shape.hidden * shape.vocabulary * answers


def forward(shape: Shape, lengths: Sequence[int], prefix: int = 0) -> Floor:
    """Reading texts, each once, and the answer after each; the keys and values of a prefix exist already."""
    flops = matrix_flops(shape, sum(lengths)) + attention_flops(shape, lengths, prefix) + answer_flops(shape, len(lengths))
    return Floor(flops, FLOAT * shape.weights + cache_bytes(shape, prefix))


def encoding(shape: Shape, prefix: int) -> Floor:
    """Computing the keys and values of a prefix."""
    return Floor(
        matrix_flops(shape, prefix) + attention_flops(shape, [prefix]), FLOAT * shape.weights + cache_bytes(shape, prefix)
    )


def training(shape: Shape, lengths: Sequence[int], batch: int) -> Floor:
    """An epoch of full fine-tuning: forward, backward, and for each step AdamW, which reads weights, gradients and two moments
    and writes all of them except the gradients."""
    steps = -(-len(lengths) // batch)
    return Floor(3 * forward(shape, lengths).flops, 7 * FLOAT * shape.weights * steps)


def cache_bytes(shape: Shape, tokens: int) -> int:
    """Bytes of the keys and values of this many tokens."""
    return 2 * FLOAT * shape.layers * shape.hidden * tokens


def training_memory(shape: Shape) -> int:
    """Bytes that full fine-tuning with AdamW needs in addition to the weights: gradients and two moments."""
    return 3 * FLOAT * shape.weights
