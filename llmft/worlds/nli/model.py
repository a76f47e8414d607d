"""The model of the toy world before any training, and the embeddings of words that it must never learn."""

import math
from dataclasses import astuple

import torch
from transformers import OPTConfig, OPTForCausalLM

from llmft.worlds.nli.grammar import KNOWN, UNSEEN
from llmft.worlds.nli.tokenizer import BOS, ID, PAD, POSITIONS, VOCABULARY
from llmft.worlds.pretraining import Size

SIZES = {"small": Size(8, 64, 256, 4), "large": Size(8, 128, 512, 8)}


def build_model(size: Size, seed: int) -> OPTForCausalLM:
    """A fresh model, float32, the same for the same seed.

    Two details of the initialisation save minutes of training: sinusoidal positions, and queries equal to keys. With them a
        token attends to equal tokens and to its neighbours from the first step on.
    """
    config = OPTConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=size.width,
        word_embed_proj_dim=size.width,
        num_hidden_layers=size.layers,
        ffn_dim=size.feed_forward,
        num_attention_heads=size.heads,
        max_position_embeddings=POSITIONS,
        dropout=0.0,
        init_std=0.08,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = OPTForCausalLM(config)
        table = model.model.decoder.embed_positions.weight
        angles = torch.arange(len(table))[:, None] * 64.0 ** (-torch.arange(0, size.width, 2) / size.width)
        table[:, 0::2], table[:, 1::2] = 0.15 * angles.sin(), 0.15 * angles.cos()
        for layer in model.model.decoder.layers:
            weight = layer.self_attn.q_proj.weight
            weight.normal_(std=1.04 / math.sqrt(size.width))
            layer.self_attn.k_proj.weight.copy_(weight)
    return model


def redraw_placeholders(embeddings: torch.Tensor, rng: torch.Generator) -> None:
    """Gives each UNSEEN word a new random embedding from the cloud of the known words of its class, in place.

    When this is done before every step, the only way to treat such a word is to match it with itself. The last draw remains, so
    the words of the finished model are new to it.
    """
    for known, unseen in zip(astuple(KNOWN), astuple(UNSEEN), strict=True):
        cloud = embeddings[[ID[word] for word in known]]
        noise = torch.randn(len(unseen), embeddings.shape[1], generator=rng)
        embeddings[[ID[word] for word in unseen]] = cloud.mean(dim=0) + cloud.std(dim=0) * noise
