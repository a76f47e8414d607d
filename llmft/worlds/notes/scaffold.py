"""Auxiliary targets for pretraining: each teaches one layer what the next one needs. The heads are thrown away.

To answer from the document, a model must collect at each value what it belongs to, collect at the question what is asked for,
and match the two. No part earns anything alone, hence the long plateau before such a circuit appears (Reddy 2023,
arXiv:2312.03002). Here each part has a known right value and is taught by itself. The heads only read hidden states; the model
still has to find the answer.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaModel, apply_rotary_pos_emb

from llmft.worlds.notes.episodes import IGNORED, LONGEST_VALUE, NotesBatch
from llmft.worlds.notes.grammar import ATTRIBUTES

LAYER = 3
"""The layer whose output says what a value is and what a question asks for, so that the next layer can match the two."""


class NotesScaffold(nn.Module):
    """Linear heads on the hidden states of one layer of a decoder of width `width`. Values and questions share them."""

    def __init__(self, width: int):
        super().__init__()
        sizes = {"place": width, "word": width, "attribute": len(ATTRIBUTES), "index": LONGEST_VALUE + 1}
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, decoder: LlamaModel, hidden: tuple[torch.Tensor, ...], batch: NotesBatch) -> dict[str, torch.Tensor]:
        """All auxiliary losses; `hidden[l]`, (B, T, width), is the output of layer l, counted from 1."""
        losses = {}
        document = torch.from_numpy(batch.segment) == 0
        for name, head in self.heads.items():
            target = torch.from_numpy(getattr(batch, name))
            for where, ending in ((document, ""), (~document, "_asked")):
                marked = where & (target != IGNORED)
                scores = head(hidden[LAYER][marked])
                if name in ("place", "word"):  # words are predicted as embeddings, so that all of them share what is learnt
                    scores = F.linear(scores, decoder.embed_tokens.weight)
                if marked.any():
                    losses[name + ending] = F.cross_entropy(scores, target[marked])
        visible = torch.from_numpy(batch.visible())
        losses["gather"] = attention_loss(decoder, LAYER - 1, hidden, batch.positions, visible, batch.gather)
        losses["lookup"] = attention_loss(decoder, LAYER, hidden, batch.positions, visible, batch.source)
        return losses


def attention_loss(
    decoder: LlamaModel,
    layer: int,
    hidden: tuple[torch.Tensor, ...],
    positions: np.ndarray,
    visible: torch.Tensor,
    target: np.ndarray,
) -> torch.Tensor:
    """Cross-entropy of the attention of a layer's first head (layers counted from 0) with where it should look.

    `target` is (B, T): a place in the row, or IGNORED.
    """
    block, width = decoder.layers[layer], decoder.config.head_dim
    normed = block.input_layernorm(hidden[layer])
    projections = block.self_attn.q_proj, block.self_attn.k_proj
    query, key = (F.linear(normed, projection.weight[:width])[:, None] for projection in projections)
    query, key = apply_rotary_pos_emb(query, key, *decoder.rotary_emb(normed, torch.from_numpy(positions)))
    wanted = torch.from_numpy(target)
    marked = wanted != IGNORED
    scores = torch.einsum("qd,qkd->qk", query[:, 0][marked], key[:, 0][marked.nonzero()[:, 0]]) / width**0.5
    return F.cross_entropy(scores.masked_fill(~visible[marked], float("-inf")), wanted[marked])
