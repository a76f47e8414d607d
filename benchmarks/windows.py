"""Evaluation by in-context learning of a model with sliding windows, behind a context that is longer than those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.floors import FLOAT, Floor
from benchmarks.in_context import SHOTS, TOKENS
from benchmarks.measure import alternate, matrix_products, ratio
from benchmarks.ours import Evaluation
from benchmarks.peers import whole_prompts
from benchmarks.results import rates_of, timed_row
from benchmarks.world import World, train_tokenizer

if TYPE_CHECKING:
    from transformers import Gemma3TextConfig

SIZES = {
    "vocab_size": 262_144, "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 256, "intermediate_size": 2048, "query_pre_attn_scalar": 256, "sliding_window": 512,
    "max_position_embeddings": 32_768,
}  # fmt: skip
"""Gemma-3-270M: every sixth layer sees all, the others the last 512 tokens."""
SMALL = {
    "vocab_size": 8000, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 16, "intermediate_size": 64, "query_pre_attn_scalar": 16, "sliding_window": 32, "max_position_embeddings": 32_768,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip


class WindowedWorld(World):
    """A world whose model is a random Gemma 3."""

    def model_folder(self) -> Path:
        """Folder of the model and its tokenizer; made if it is not there yet."""
        path = self.folder / "windowed"
        if not path.is_dir():
            import torch
            from transformers import Gemma3ForCausalLM

            torch.manual_seed(0)
            Gemma3ForCausalLM(self.config).save_pretrained(path)
            train_tokenizer(self.data_dir, min(self.shape.vocabulary, self.config.vocab_size)).save_pretrained(path)
        return path

    @property
    def config(self) -> Gemma3TextConfig:
        """The model's sizes."""
        from transformers import Gemma3TextConfig

        return Gemma3TextConfig(**(SMALL if self.quick else SIZES), pad_token_id=0, bos_token_id=1, eos_token_id=1)


def measure(world: World) -> dict[str, Any]:
    """Time of scoring with and without demonstrations, per example, and whether the scores are those of whole prompts."""
    world = WindowedWorld(**{field.name: getattr(world, field.name) for field in fields(world)})
    ours = Evaluation.create(world, SHOTS, world.size(192, 8))
    zero = Evaluation.create(world, 0, len(ours.rows))
    few, prompts, config = world.size(4, 2), ours.prompts, world.config
    whole = [prompts.whole(i) for i in range(few)]
    theirs, _ = world.load()  # a model of its own: ours gets another attention
    products, flops = matrix_products(world.shape, TOKENS)
    arms = {
        "matrix": products,
        "ours": ours.score,
        "zero": zero.score,
        "naive": lambda: whole_prompts(theirs, whole, ours.scorer.answers.ids),
    }
    difference = abs(arms["naive"]() - ours.score()["token_logprobs"][:few]).max()
    times = alternate(arms, world.turns)
    rates, count = rates_of(times["matrix"], flops), len(ours.rows)
    lengths, prefix = list(map(len, prompts.suffixes)), len(prompts.prefix)
    alone = forward(config, [len(zero.prompts.prefix) + len(suffix) for suffix in zero.prompts.suffixes])
    behind = forward(config, [prefix], answers=False) + forward(config, lengths, prefix)
    rows = [
        timed_row("windows", f"Gemma 3, {SHOTS} shots", times["ours"], count, behind, count, rates),
        timed_row("windows", "Gemma 3, no shots", times["zero"], count, alone, count, rates),
        timed_row("windows", "Gemma 3, every prompt read whole", times["naive"], few, behind, count, rates),
    ]
    values = {
        f"{kind}: windows, {SHOTS} shots over none": ratio(getattr(times["ours"], kind), getattr(times["zero"], kind))
        for kind in ("wall", "cpu")
    }
    return {
        "rows": rows,
        "values": {**values, "scores: windows": float(difference)},
        "tokens": {"context": prefix, "window": config.sliding_window},
        "rates": rates,
        "times": {name: found.as_dict() for name, found in times.items()},
    }


def forward(config: Gemma3TextConfig, lengths: Sequence[int], prefix: int = 0, *, answers: bool = True) -> Floor:
    """As `floors.forward` counts it, of a Gemma 3: a token looks at those that the layer's window leaves it.

    Args:
        answers: whether there is one behind each text; in the last layer only those look at a prefix.
    """
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_dim
    projections = hidden * (2 * width + 2 * config.num_key_value_heads * config.head_dim)
    layer_weights, tokens = projections + 3 * hidden * config.intermediate_size, sum(lengths)
    flops = 2 * tokens * config.num_hidden_layers * layer_weights
    cached = 0
    for layer, kind in enumerate(config.layer_types):
        window = config.sliding_window if kind == "sliding_attention" else prefix + max(lengths)
        cached += min(prefix, window - 1)
        for length in lengths:
            seen = [min(place + 1, window) for place in range(prefix, prefix + length)]
            if layer == config.num_hidden_layers - 1:
                seen = [min(place + 1, window) for place in range(length - 1)] + seen[-1:]
            flops += 4 * width * sum(seen)
    flops += 2 * hidden * config.vocab_size * len(lengths) * answers
    numbers = layer_weights * config.num_hidden_layers + hidden * config.vocab_size * answers
    return Floor(flops, FLOAT * (numbers + 2 * config.num_key_value_heads * config.head_dim * cached))
