"""Models of several kinds with random weights, for the measurements with free text."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.world import VOCABULARY, World, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

POSITIONS = 16_384
"""Room for documents of 8000 tokens."""
GEMMA_3 = {
    "vocab_size": 262_144, "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 256, "intermediate_size": 2048,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "opt": {
        "vocab_size": 50_272, "hidden_size": 768, "word_embed_proj_dim": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "ffn_dim": 3072,
    },
    "qwen2": {
        "vocab_size": 151_936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "tie_word_embeddings": True,
    },
    "gemma3_text": {**GEMMA_3, "query_pre_attn_scalar": 256, "sliding_window": 512},
    "llama": {**GEMMA_3, "tie_word_embeddings": True},
}  # fmt: skip
"""transformers' name of a kind -> the sizes of OPT-125m, Qwen2-0.5B, Gemma-3-270M (every sixth layer sees everything, the
others the last 512 tokens), and a Llama of the same size as that."""
SMALL: dict[str, Any] = {
    "vocab_size": 8000, "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64, "ffn_dim": 64, "query_pre_attn_scalar": 16,
    "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
"""Replacements for these with `--quick`, as far as a kind has them."""
NAMES = {"opt": "OPT-125m", "qwen2": "Qwen2-0.5B", "gemma3_text": "Gemma 3", "llama": "Llama"}


def small(kind: str) -> dict[str, Any]:
    """The sizes of a tiny model of this kind."""
    sizes = SIZES[kind] | {name: value for name, value in SMALL.items() if name in SIZES[kind]}
    return sizes | ({"layer_types": SMALL["layer_types"]} if "sliding_window" in sizes else {})


@dataclass(frozen=True)
class KindWorld(World):
    """A world with another kind of model.

    Attributes:
        kind: one of `SIZES`.
        layers: how many the model has; None for the number of its kind.
    """

    kind: str = "opt"
    layers: int | None = None

    @classmethod
    def of(cls, world: World, kind: str, layers: int | None = None) -> KindWorld:
        """The world with a model of this kind."""
        return cls(**{field.name: getattr(world, field.name) for field in fields(World)}, kind=kind, layers=layers)

    def model_folder(self) -> Path:
        """Folder of the model and its tokenizer; created if missing."""
        path = self.folder / f"{self.kind}-{self.layers or 'all'}"
        if not path.is_dir():
            import torch
            from transformers import AutoModelForCausalLM

            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(self.config).save_pretrained(path)
            tokenizer = train_tokenizer(self.data_dir, min(VOCABULARY, self.config.vocab_size))
            filled(tokenizer, self.config.vocab_size).save_pretrained(path)
        return path

    @property
    def config(self) -> PreTrainedConfig:
        """The model's sizes."""
        from transformers import AutoConfig

        sizes = small(self.kind) if self.quick else SIZES[self.kind]
        sizes |= {} if self.layers is None else {"num_hidden_layers": self.layers}
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        return AutoConfig.for_model(self.kind, **sizes, max_position_embeddings=POSITIONS, **tokens)


def filled(tokenizer: PreTrainedTokenizerBase, size: int) -> PreTrainedTokenizerBase:
    """The tokenizer, filled up to `size` with entries that occur in no text: a model with random weights writes any of them."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary |= {f"<{number}>": number for number in range(len(vocabulary), size)}
    special = {"pad_token": tokenizer.pad_token, "bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special)
