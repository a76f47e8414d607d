"""Evaluation by in-context learning of a model with sliding windows, after a context that is longer than these."""

from __future__ import annotations

from typing import Any

from benchmarks.in_context import SHOTS, TOKENS
from benchmarks.kind_floors import encoding, forward
from benchmarks.kinds import KindWorld
from benchmarks.measure import alternate, matrix_products, ratio
from benchmarks.ours import Evaluation
from benchmarks.peers import whole_prompts
from benchmarks.results import rates_of, timed_row
from benchmarks.world import World


def measure(world: World) -> dict[str, Any]:
    """Time of scoring with and without demonstrations, per example, and whether the scores are those of whole prompts."""
    world = KindWorld.of(world, "gemma3_text")
    ours = Evaluation.create(world, SHOTS, world.size(192, 8))
    zero = Evaluation.create(world, 0, len(ours.rows))
    few, prompts, config = world.size(4, 2), ours.prompts, world.config
    whole = [prompts.whole(i) for i in range(few)]
    theirs, _ = world.load()  # a separate model: ours gets another attention
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
    behind = encoding(config, prefix) + forward(config, lengths, prefix)
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
