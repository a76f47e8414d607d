"""Answers that a model writes after a document that it reads once, compared with whole prompts."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks import kind_floors
from benchmarks.kinds import NAMES, KindWorld
from benchmarks.measure import alternate, ratio
from benchmarks.peers import Harness
from benchmarks.results import rates_of, timed_row
from benchmarks.text_ours import TOKENS, Texts
from benchmarks.text_peers import generate
from benchmarks.text_teacher import ANSWERS, of_each_kind, products_of
from benchmarks.text_training import DOCUMENT
from benchmarks.world import World


def measure(world: World) -> dict[str, Any]:
    """Time per answer in all ways, and how many answers differ."""
    return of_each_kind(world, _one)


def _one(world: KindWorld) -> dict[str, Any]:
    ours = Texts.create(world, world.size(DOCUMENT, 60), world.size(ANSWERS, 8))
    few = ours.of(world.size(4, 2))
    prompts, number = ours.prompts("teacher"), len(few.queries)
    theirs, tokenizer = world.load()  # a separate model: ours gets another attention
    written: dict[str, list[Any]] = {}

    def keep(name: str, work: Callable[[], list[Any]]) -> Callable[[], None]:
        return lambda: written.__setitem__(name, work())

    products, flops = products_of(world)
    fast = {"matrix": products, "encode": ours.encode, "ours": keep("ours", ours.write)}
    whole = [prompts.whole(i) for i in range(number)]
    slow = {"plain": keep("plain", lambda: generate(theirs, whole, TOKENS))}
    if find_spec("lm_eval"):
        harness, context = Harness(theirs, tokenizer), ours.teacher.prompter.context
        texts = [context + text for text in few.prompt_texts()]
        slow["harness"] = keep("harness", lambda: harness.write(texts, TOKENS))
    times = alternate(fast, world.turns) | alternate(slow, max(1, world.turns - 1))

    rates, config, prefix = rates_of(times["matrix"], flops), world.config, len(prompts.prefix)
    suffixes = [*map(len, prompts.suffixes)]
    behind = kind_floors.writing(config, suffixes, prefix, TOKENS, len(suffixes))
    floor = kind_floors.encoding(config, prefix) + behind
    names = {"ours": "llmft", "plain": f"generate, batch {number}", "harness": "lm-evaluation-harness"}
    rows = [
        timed_row(
            "text, generation",
            f"{NAMES[world.kind]}, {DOCUMENT} tokens: {names[arm]}",
            times[arm],
            len(suffixes) if arm == "ours" else number,
            floor,
            len(suffixes),
            rates,
        )
        for arm in names
        if arm in times
    ]
    values: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        taken = {name: getattr(found, clock) for name, found in times.items()}
        own = sorted(taken["ours"])[len(taken["ours"]) // 2] / len(suffixes)
        for arm in slow:
            values[f"{clock}: {world.kind}: {arm} over writing"] = ratio(
                [seconds / number for seconds in taken[arm]], [own] * len(taken[arm])
            )
        least = behind.seconds(rates)
        spent = [a - b for a, b in zip(taken["ours"], taken["encode"], strict=True)]
        values[f"{clock}: {world.kind}: writing over its floor"] = ratio(spent, [least] * len(spent))
    differing = [one != other for one, other in zip(written["ours"], written["plain"], strict=False)]
    differing += [
        ours.text(one) != other.strip() for one, other in zip(written["ours"], written.get("harness", ()), strict=False)
    ]
    values[f"{world.kind}: answers that differ"] = sum(differing)
    return {"rows": rows, "values": values, "times": {name: found.as_dict() for name, found in times.items()}}
