"""Shared by all measurements: a random model of OPT-125m's shape in a folder, a tokenizer, the options of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY = 50_000
"""The most entries that the tokenizer may learn from RTE's training rows; it finds about 29,000, and makes 69 tokens of a row,
while SmolLM2's tokenizer, with 49,152 entries, makes 70."""


@dataclass(frozen=True)
class Shape:
    """Sizes of an OPT model; the defaults are OPT-125m's."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    vocabulary: int = 50_272
    positions: int = 2048

    @property
    def weights(self) -> int:
        """Number of all weights; the output layer is tied to the input embeddings (OPT has two positions more than it can
        use)."""
        return self.layer_weights * self.layers + (self.vocabulary + self.positions + 2 + 2) * self.hidden

    @property
    def layer_weights(self) -> int:
        """Number of weights in one layer: four square projections, two of the feed-forward part, their biases, two norms."""
        hidden, wide = self.hidden, self.feed_forward
        return 4 * hidden * hidden + 2 * hidden * wide + 4 * hidden + wide + hidden + 4 * hidden


QUICK = Shape(hidden=64, layers=2, heads=4, feed_forward=128, vocabulary=8000)


@dataclass(frozen=True)
class World:
    """The files and options that a measurement needs.

    Attributes:
        folder: has model folders, and runs' output; it is deleted at the end.
        data_dir: has `glue/rte/train.parquet` and `validation.parquet`.
        quick: whether a few rows suffice, to check that everything works.
        turns: number of turns for things that are compared.
    """

    folder: Path
    data_dir: Path
    shape: Shape
    quick: bool
    turns: int

    def size(self, usual: int, quick: int) -> int:
        """The number of something to measure with."""
        return quick if self.quick else usual

    def changed(self, **changes: int) -> Shape:
        """The shape with some sizes changed."""
        return replace(self.shape, **changes)

    def model_folder(self, **changes: int) -> Path:
        """Folder of the model (with some sizes changed) and its tokenizer; created if missing."""
        shape = self.changed(**changes)
        path = self.folder / "-".join(["model", *(f"{name}{size}" for name, size in changes.items())])
        if not path.is_dir():
            build_model(shape).save_pretrained(path)
            train_tokenizer(self.data_dir, min(VOCABULARY, shape.vocabulary)).save_pretrained(path)
        return path

    def load(self, attention: str = "sdpa", **changes: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Model and tokenizer as any user would load them, with one of transformers' attention implementations."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = self.model_folder(**changes)
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention).eval()
        for weight in model.parameters():  # a file's pages count as memory only once they are read
            weight.data = weight.data.clone()
        return model, AutoTokenizer.from_pretrained(path)


def build_model(shape: Shape) -> PreTrainedModel:
    """A random OPT model, the same every time. Dropout is OPT's own: .1 in training."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        ffn_dim=shape.feed_forward,
        word_embed_proj_dim=shape.hidden,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.positions,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return OPTForCausalLM(config)


def train_tokenizer(data_dir: Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer like OPT's (including its beginning-of-text token), trained on RTE's training rows, since
    OPT's own is only on the hub."""
    import pandas as pd
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rows = pd.read_parquet(data_dir / "glue" / "rte" / "train.parquet")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (rows["sentence1"] + " " + rows["sentence2"] + " ? Yes No").tolist()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="</s>", eos_token="</s>")
