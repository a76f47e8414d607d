"""How the cost of an example grows with the number of demonstrations, and the cost of a run with the number of queries."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import floors
from benchmarks.in_context import TOKENS
from benchmarks.measure import Times, alternate, matrix_products
from benchmarks.ours import Evaluation
from benchmarks.results import rates_of, timed_row
from benchmarks.world import World

ROOM = 8192
"""Positions of the model that reads 64 demonstrations (about 5,400 tokens); otherwise it has the usual shape."""
FEW_SHOTS = 4


def measure(world: World) -> dict[str, Any]:
    """Both growths, with the time of attention itself measured separately."""
    products, flops = matrix_products(world.shape, TOKENS)
    shots = (0, FEW_SHOTS, 8) if world.quick else (0, FEW_SHOTS, 16, 64)
    asked = {k: Evaluation.create(world, k, world.size(64, 8), positions=ROOM) for k in shots}
    arms: dict[str, Callable[[], Any]] = {"matrix": products}
    attention: dict[str, list[float]] = {}
    for k in shots:
        for name, work in {"score": asked[k].score, "encode": asked[k].encode}.items():
            if k or name == "score":
                arms[f"{name} {k}"], attention[f"{name} {k}"] = with_attention_clock(asked[k].scorer.model, work)
    times = alternate(arms, world.turns)
    rates = rates_of(times["matrix"], flops)
    by_shots, rows = {}, []
    for k in shots:
        by_shots[k], row = _one(world, k, asked[k], times, attention, rates)
        rows.append(row)
    most, few = by_shots[shots[-1]], by_shots[FEW_SHOTS]
    by_queries, more_rows, exponent = _queries(world, rates)
    values = {
        f"time, {shots[-1]} shots over {FEW_SHOTS}": most["seconds"] / few["seconds"],
        f"time outside attention, {shots[-1]} shots over {FEW_SHOTS}": most["rest_s"] / few["rest_s"],
        "exponent of queries": exponent,
    }
    return {"rows": rows + more_rows, "values": values, "shots": by_shots, "queries": by_queries, "rates": rates}


def _one(
    world: World, k: int, asked: Evaluation, times: dict[str, Times], attention: dict[str, list[float]], rates: dict[str, float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost of an example after k demonstrations that have been encoded, and the row of the table."""
    prompts, n = asked.prompts, len(asked.rows)
    prefix, lengths = len(prompts.prefix) if k else 0, list(map(len, prompts.suffixes))

    def behind(seconds: dict[str, list[float]]) -> list[float]:
        encoding = seconds[f"encode {k}"] if k else [0.0] * len(seconds[f"score {k}"])
        return [a - b for a, b in zip(seconds[f"score {k}"], encoding, strict=True)]

    walls = behind({name: found.wall for name, found in times.items()})
    row_times = Times(walls, behind({name: found.cpu for name, found in times.items()}))
    own = behind(attention)
    alone = floors.attention_flops(world.shape, lengths)
    found = {
        "context_tokens": prefix,
        "seconds": statistics.median(walls) / n,
        "attention_s": statistics.median(own) / n,
        "rest_s": statistics.median(a - b for a, b in zip(walls, own, strict=True)) / n,
        "prefix_attention_flops": (floors.attention_flops(world.shape, lengths, prefix) - alone) // n,
        "other_flops": floors.forward(world.shape, lengths).flops // n,
        "prefix_bytes": floors.cache_bytes(world.shape, prefix),
    }
    name = f"{k} shots ({prefix} tokens), context encoded" if k else "no shots"
    return found, timed_row("growth", name, row_times, n, floors.forward(world.shape, lengths, prefix), n, rates)


def _queries(world: World, rates: dict[str, float]) -> tuple[dict[int, float], list[dict[str, Any]], float]:
    """Seconds of whole runs on increasing numbers of queries, with a model of one layer, and the exponent of their growth."""
    counts = (10, 20, 40) if world.quick else (100, 1000, 10_000)
    asked = Evaluation.create(world, FEW_SHOTS, counts[-1], layers=1)
    shape = world.changed(layers=1)
    asked.score(asked.rows[: counts[0]])
    times = alternate({str(n): lambda n=n: asked.score(asked.rows[:n]) for n in counts[:-1]}, world.turns)
    times |= alternate({str(counts[-1]): asked.score}, 1)
    rows = []
    for n in counts:
        prompts = asked.scorer.prompter.prompts(asked.rows[:n])
        lengths, prefix = list(map(len, prompts.suffixes)), len(prompts.prefix)
        floor = floors.encoding(shape, prefix) + floors.forward(shape, lengths, prefix)
        rows.append(timed_row("growth", f"{n} queries, {FEW_SHOTS} shots, one layer", times[str(n)], n, floor, n, rates))
    seconds = {n: times[str(n)].median for n in counts}
    exponent = np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0]
    return seconds, rows, float(exponent)


def with_attention_clock(model: torch.nn.Module, work: Callable[[], Any]) -> tuple[Callable[[], None], list[float]]:
    """The work, and a list to which each repetition adds its seconds in the model's attention: everything that its attention
    modules do except projections, so the part that grows with the preceding keys and values."""
    seconds: list[float] = []

    def clocked() -> None:
        with _attention_clock(model) as parts:
            work()
        seconds.append(sum(parts))

    return clocked, seconds


@contextmanager
def _attention_clock(model: torch.nn.Module) -> Iterator[list[float]]:
    parts: list[float] = []
    started: dict[torch.nn.Module, float] = {}

    def start(module: torch.nn.Module, *inputs: Any) -> None:
        started[module] = time.perf_counter()

    def stop(module: torch.nn.Module, *results: Any, sign: int) -> None:
        parts.append(sign * (time.perf_counter() - started[module]))  # on a CPU the work is done when a call returns

    signs: dict[torch.nn.Module, int] = {}
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            signs |= {module: 1} | {inner: -1 for inner in module.children() if isinstance(inner, torch.nn.Linear)}
    hooks = [module.register_forward_pre_hook(start) for module in signs]
    hooks += [module.register_forward_hook(partial(stop, sign=sign)) for module, sign in signs.items()]
    try:
        yield parts
    finally:
        for hook in hooks:
            hook.remove()
