"""The model of the notes world before any training."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmft.worlds.notes.tokenizer import BOS, EOS, PAD, POSITIONS, VOCABULARY
from llmft.worlds.pretraining import Size

SIZE = Size(5, 128, 256, 4)


def build_notes_model(size: Size, seed: int) -> LlamaForCausalLM:
    """A fresh model, float32, the same for the same seed.

    Queries are initialised equal to keys, so that a token attends to equal tokens and to its neighbours from the first step on.
    """
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        intermediate_size=size.feed_forward,
        num_attention_heads=size.heads,
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    return model
