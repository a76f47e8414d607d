"""Decoders with GPT-2's architecture that read examples and predict labels, one for each pool of tasks, trained side by side.

Between a linear read-in and read-out, a member of the ensemble computes what transformers' GPT2Model does (a test compares the
two). Here the weights of all members are stacked along a first axis E, which GPT2Model does not support; one matrix product
serves all of them. At the default size that is 1.3 times as fast on one CPU thread; on a GPU it is one kernel launch instead of
E.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

TOKENS = ("paper", "paired", "compact")
"""Ways to encode examples; see `as_tokens`."""
POSITION_STD = 0.02
"""Standard deviation of the initial position embeddings, as in GPT-2."""


@dataclass(frozen=True)
class RegressorShape:
    """Dimensions, tokens and initial weights of a member."""

    dimension: int
    examples: int
    layers: int = 3
    heads: int = 8
    width: int = 64
    tokens: str = "compact"
    init_std: float = 0.08
    """Standard deviation of initial weights, divided by sqrt(2 layers) before a residual sum; 0.02 in GPT-2 and the paper."""
    read_in_std: float = 0.5
    """The same for the read-in."""

    @property
    def token_size(self) -> int:
        """Numbers in a token."""
        return 2 * self.dimension + 1 if self.tokens == "compact" else self.dimension + 1

    @property
    def tokens_per_example(self) -> int:
        """Tokens per example, the first of which is read out."""
        return 1 if self.tokens == "compact" else 2


def as_tokens(x: torch.Tensor, labels: torch.Tensor, form: str) -> torch.Tensor:
    """Sequences as a transformer reads them; label k is never seen at or before the token that predicts it.

    Args:
        x: (E, B, K, D).
        labels: (E, B, K).
        form: `paper`: (0, x_k), (y_k, 0), as in the paper; `paired`: (0, x_k), (y_k, x_k); `compact`: one token per example,
            (y_{k-1}, x_{k-1}, x_k), half as many and with nothing to pair.

    Returns:
        (E, B, T, token size), where T is 2K or K.
    """
    members, batch, examples, dimension = x.shape
    if form == "compact":
        pairs = torch.cat([labels[..., None], x], -1)
        before = torch.cat([torch.zeros_like(pairs[:, :, :1]), pairs[:, :, :-1]], 2)
        return torch.cat([before, x], -1)
    inputs = torch.cat([torch.zeros_like(labels)[..., None], x], -1)
    shown = torch.cat([labels[..., None], x if form == "paired" else torch.zeros_like(x)], -1)
    return torch.stack([inputs, shown], 3).view(members, batch, 2 * examples, dimension + 1)


class Regressors(nn.Module):
    """E members that start from the same weights."""

    def __init__(self, shape: RegressorShape, members: int, seed: int) -> None:
        super().__init__()
        self.shape, generator = shape, torch.Generator().manual_seed(seed)

        def normal(*size: int, std: float) -> nn.Parameter:
            return nn.Parameter((torch.randn(size, generator=generator) * std).repeat(members, *[1] * len(size)))

        positions = shape.examples * shape.tokens_per_example
        self.read_in = normal(shape.width, shape.token_size, std=shape.read_in_std)
        self.positions = normal(positions, shape.width, std=POSITION_STD)
        self.blocks = nn.ModuleList(StackedBlock(shape, members, normal) for _ in range(shape.layers))
        self.norm = StackedNorm(members, shape.width)
        self.read_out = normal(1, shape.width, std=shape.init_std)

    @property
    def members(self) -> int:
        """E."""
        return len(self.read_in)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(E, B, K) predictions for (B, K, D) inputs that all members share, or (E, B, K, D), and (E, B, K) labels."""
        tokens = as_tokens(x.expand(self.members, *x.shape[-3:]), labels, self.shape.tokens)
        _, batch, length, _ = tokens.shape
        hidden = torch.bmm(tokens.flatten(1, 2), self.read_in.mT).view(self.members, batch, length, -1)
        hidden = (hidden + self.positions[:, None, :length]).flatten(1, 2)  # (E, B T, C)
        for block in self.blocks:
            hidden = block(hidden, batch)
        read = self.norm(hidden).view(self.members, batch, length, -1)[:, :, :: self.shape.tokens_per_example]
        return torch.einsum("ebkc,ec->ebk", read, self.read_out[:, 0])

    def kernels(self) -> list[nn.Parameter]:
        """The matrices inside the blocks, (E, out, in): those that Muon trains and that the paper's weight decay applies to."""
        return [layer.weight for layer in self.blocks.modules() if isinstance(layer, StackedLinear)]

    def copies(self, times: int) -> Regressors:
        """Each member repeated `times` times, copies next to each other, each with its own weights."""
        copied = Regressors(self.shape, self.members * times, 0)
        copied.load_state_dict({name: weight.repeat_interleave(times, 0) for name, weight in self.state_dict().items()})
        return copied.to(self.read_in.device)


class StackedLinear(nn.Module):
    """A linear layer of each member."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight  # (E, out, in)
        self.bias = nn.Parameter(torch.zeros(len(weight), 1, weight.shape[1]))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(E, N, in) -> (E, N, out)."""
        return torch.baddbmm(self.bias, hidden, self.weight.mT)


class StackedNorm(nn.Module):
    """A layer norm of each member."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, width))
        self.bias = nn.Parameter(torch.zeros(members, width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(E, N, C) -> (E, N, C)."""
        return torch.addcmul(self.bias[:, None], F.layer_norm(hidden, hidden.shape[-1:]), self.weight[:, None])


class StackedBlock(nn.Module):
    """A block of each member: x + attention(norm(x)), then x + mlp(norm(x)), as in GPT-2, without dropout."""

    def __init__(self, shape: RegressorShape, members: int, normal: Callable[..., nn.Parameter]) -> None:
        super().__init__()
        width, std, into_sum = shape.width, shape.init_std, shape.init_std / math.sqrt(2 * shape.layers)
        self.heads = shape.heads
        self.attention_norm, self.mlp_norm = StackedNorm(members, width), StackedNorm(members, width)
        self.qkv = StackedLinear(normal(3 * width, width, std=std))
        self.attention_out = StackedLinear(normal(width, width, std=into_sum))
        self.mlp_in = StackedLinear(normal(4 * width, width, std=std))
        self.mlp_out = StackedLinear(normal(width, 4 * width, std=into_sum))

    def forward(self, hidden: torch.Tensor, batch: int) -> torch.Tensor:
        """(E, B T, C) -> (E, B T, C)."""
        members, _, width = hidden.shape
        qkv = self.qkv(self.attention_norm(hidden)).view(members * batch, -1, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (E B, H, T, C / H)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).reshape(hidden.shape))
        return hidden + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(hidden)), approximate="tanh"))
