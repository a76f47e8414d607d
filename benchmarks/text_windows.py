"""Texts after a document longer than a model's windows: Gemma 3 compared with a Llama of the same size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import kind_floors
from benchmarks.kinds import NAMES, KindWorld
from benchmarks.measure import alternate, ratio
from benchmarks.results import rates_of, timed_row
from benchmarks.text_ours import TOKENS, Texts
from benchmarks.text_teacher import ANSWERS, products_of
from benchmarks.text_training import BATCH, DOCUMENT, LEARNING_RATE
from benchmarks.world import World

WINDOWED, PLAIN = "gemma3_text", "llama"


def measure(world: World) -> dict[str, Any]:
    """Time per answer for targets, writing and an epoch."""
    worlds = {kind: KindWorld.of(world, kind) for kind in (WINDOWED, PLAIN)}
    products, flops = products_of(worlds[PLAIN])
    arms: dict[str, Callable[[], Any]] = {"matrix": products}
    flags = ("--per_device_train_batch_size", world.size(BATCH, 4), "--learning_rate", LEARNING_RATE)
    texts = {}
    for kind, one in worlds.items():
        texts[kind] = made = Texts.create(one, world.size(DOCUMENT, 60), world.size(ANSWERS, 8), *flags, trains=True)
        arms[f"targets {kind}"], arms[f"write {kind}"] = made.targets, made.write
        arms[f"epoch {kind}"] = partial(made.distil, made.targets())
    times = alternate(arms, world.turns)
    rates, rows = rates_of(times["matrix"], flops), []
    names = {"targets": "targets", "write": "an answer written", "epoch": "distillation epoch, targets there"}
    for kind, made in texts.items():
        floors, count = _floors(worlds[kind], made), len(made.queries)
        for work, name in names.items():
            label = f"{NAMES[kind]}, {DOCUMENT} tokens: {name}"
            rows.append(timed_row("text, windows", label, times[f"{work} {kind}"], count, floors[work], count, rates))
    values = {
        f"{clock}: text windows: {work}": ratio(
            getattr(times[f"{work} {WINDOWED}"], clock), getattr(times[f"{work} {PLAIN}"], clock)
        )
        for clock in ("wall", "cpu")
        for work in names
    }
    return {"rows": rows, "values": values, "rates": rates, "times": {name: found.as_dict() for name, found in times.items()}}


def _floors(world: KindWorld, texts: Texts) -> dict[str, kind_floors.Floor]:
    config, prompts = world.config, texts.prompts("teacher")
    lengths, prefix = [*map(len, prompts.suffixes)], len(prompts.prefix)
    counts = [TOKENS] * len(lengths)
    encoding = kind_floors.encoding(config, prefix)
    answered = [length + TOKENS - 1 for length in lengths]
    return {
        "targets": encoding + kind_floors.forward(config, answered, prefix, counts=counts),
        "write": encoding + kind_floors.writing(config, lengths, prefix, TOKENS, len(lengths)),
        "epoch": kind_floors.lora_step(config, [len(example["input_ids"]) for example in texts.examples()], counts),
    }
