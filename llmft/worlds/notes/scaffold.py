"""Auxiliary targets for pretraining: each teaches one layer what the next one needs. The heads are thrown away.

To answer from the document a model must gather at each value whose it is, gather at the question what is asked for, and let
the one find the other. Each part alone earns nothing, hence the long plateau before such a circuit appears (Reddy 2023,
arXiv:2312.03002). Here each part has a known right value and is taught by itself. The heads only read hidden states; the
answer still has to be found by the model.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llmft.worlds.notes.episodes import IGNORED, LONGEST_VALUE, Batch
from llmft.worlds.notes.grammar import ATTRIBUTES

LAYER = 3


class Scaffold(nn.Module):
    """Linear heads on the hidden states of one layer of a decoder of width `width`; values and questions share them, so that the
    next layer finds the two alike."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        sizes = {"place": vocabulary, "word": vocabulary, "kind": len(ATTRIBUTES), "index": LONGEST_VALUE + 1}
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def lookup(self, model, hidden, batch):
        """Where the first head of the next layer looks."""
        source = torch.from_numpy(batch.source)
        due = source != IGNORED
        layer, width = model.layers[LAYER], model.config.head_dim
        normed = layer.input_layernorm(hidden[LAYER])
        weights = layer.self_attn.q_proj.weight[:width], layer.self_attn.k_proj.weight[:width]
        query, key = (F.linear(normed, weight)[:, None] for weight in weights)
        query, key = apply_rotary_pos_emb(query, key, *model.rotary_emb(normed, torch.from_numpy(batch.positions)))
        visible = torch.from_numpy(batch.visible())[:, 0][due]
        row = due.nonzero()[:, 0]
        scores = torch.einsum("qd,qkd->qk", query[:, 0][due], key[:, 0][row]) / width**0.5
        return F.cross_entropy(scores.masked_fill(~visible, -1e9), source[due])

    def forward(self, model, hidden: tuple[torch.Tensor, ...], batch: Batch) -> torch.Tensor:
        """The sum of all auxiliary losses; `hidden[l]`, (B, T, width), is what layer l puts out, from 1."""
        loss = hidden[0].new_zeros(())
        document = torch.from_numpy(batch.segment) == 0
        self.parts = {}
        for name, head in self.heads.items():
            target = torch.from_numpy(getattr(batch, name))
            for where in (document, ~document):
                marked = where & (target != IGNORED)
                if marked.any():
                    one = F.cross_entropy(head(hidden[LAYER][marked]), target[marked])
                    self.parts[name + "_d" * bool(where is document)] = one.item()
                    loss = loss + one
        one = self.lookup(model, hidden, batch)
        self.parts["lookup"] = one.item()
        return loss + one
