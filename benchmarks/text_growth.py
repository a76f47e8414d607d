"""How the cost of an answer grows with its document, and that of a teacher's targets with the number of queries."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from benchmarks import kind_floors
from benchmarks.growth import with_attention_clock
from benchmarks.kinds import NAMES, KindWorld
from benchmarks.measure import Times, alternate
from benchmarks.results import rates_of, timed_row
from benchmarks.text_ours import TOKENS, Texts
from benchmarks.text_teacher import ANSWERS, DOCUMENTS, products_of
from benchmarks.world import World

KIND = "opt"
WORKS = {"targets": "targets", "write": "an answer written"}
SHORT = 8
"""Tokens per answer when there are many answers."""


def measure(world: World) -> dict[str, Any]:
    """Both growths, with the time of attention itself measured separately."""
    of_all = KindWorld.of(world, KIND)
    products, flops = products_of(of_all)
    documents = (60, 120) if world.quick else DOCUMENTS
    asked = {document: Texts.create(of_all, document, world.size(ANSWERS, 8)) for document in documents}
    arms, attention = {"matrix": products}, {}
    for document, texts in asked.items():
        for name in ("encode", *WORKS):
            arm = f"{name} {document}"
            arms[arm], attention[arm] = with_attention_clock(texts.teacher.model, getattr(texts, name))
    times = alternate(arms, world.turns)
    rates, rows = rates_of(times["matrix"], flops), []
    rest: dict[str, float] = {}
    for document, texts in asked.items():
        for name, text in WORKS.items():
            walls, cpus, own = (
                _behind(seconds, name, document)
                for seconds in ({n: t.wall for n, t in times.items()}, {n: t.cpu for n, t in times.items()}, attention)
            )
            rest[f"{name} {document}"] = statistics.median(a - b for a, b in zip(walls, own, strict=True))
            floor, count = _floor(of_all, texts, name), len(texts.queries)
            label = f"{NAMES[KIND]}, {document} tokens, document encoded: {text}"
            rows.append(timed_row("text, growth", label, Times(walls, cpus), count, floor, count, rates))
    values: dict[str, Any] = {
        f"time outside attention, {name}, longest document over shortest": rest[f"{name} {documents[-1]}"]
        / rest[f"{name} {documents[0]}"]
        for name in WORKS
    }
    more_rows, values["exponent of queries in words"] = _queries(world, rates)
    return {"rows": rows + more_rows, "values": values, "rates": rates}


def _behind(seconds: dict[str, list[float]], name: str, document: int) -> list[float]:
    """The time that each turn took after the document."""
    return [a - b for a, b in zip(seconds[f"{name} {document}"], seconds[f"encode {document}"], strict=True)]


def _floor(world: KindWorld, texts: Texts, name: str) -> kind_floors.Floor:
    prompts = texts.prompts("teacher")
    lengths, prefix = [*map(len, prompts.suffixes)], len(prompts.prefix)
    if name == "write":
        return kind_floors.writing(world.config, lengths, prefix, TOKENS, len(lengths))
    answered = [length + TOKENS - 1 for length in lengths]
    return kind_floors.forward(world.config, answered, prefix, counts=[TOKENS] * len(lengths))


def _queries(world: World, rates: dict[str, float]) -> tuple[list[dict[str, Any]], float]:
    """Rows for whole passes over increasing numbers of queries, with a model of one layer, and the exponent of their growth."""
    counts, world = (10, 20, 40) if world.quick else (100, 1000, 10_000), KindWorld.of(world, KIND, layers=1)
    asked = Texts.create(world, world.size(DOCUMENTS[0], 60), counts[-1], tokens=SHORT)
    asked.of(counts[0]).targets()
    times = alternate({str(n): asked.of(n).targets for n in counts[:-1]}, world.turns)
    times |= alternate({str(counts[-1]): asked.targets}, 1)
    rows = []
    for n in counts:
        prompts = asked.of(n).prompts("teacher")
        lengths = [len(suffix) + SHORT - 1 for suffix in prompts.suffixes]
        floor = kind_floors.encoding(world.config, len(prompts.prefix))
        floor += kind_floors.forward(world.config, lengths, len(prompts.prefix), counts=[SHORT] * n)
        rows.append(timed_row("text, growth", f"{n} queries, one layer: targets", times[str(n)], n, floor, n, rates))
    seconds = {n: times[str(n)].median for n in counts}
    return rows, float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])
