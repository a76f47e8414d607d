"""A teacher's targets along text answers after a document that is read once, compared with reading it for every answer."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks import kind_floors
from benchmarks.in_context import TOKENS
from benchmarks.kinds import NAMES, KindWorld
from benchmarks.measure import alternate, matrix_products, ratio
from benchmarks.peers import Harness, sdft_trainer
from benchmarks.results import rates_of, timed_row
from benchmarks.text_ours import Texts
from benchmarks.text_peers import SdftTeacher, peft_targets
from benchmarks.world import World

KINDS = ("opt", "qwen2")
DOCUMENTS = (500, 2000, 8000)
ANSWERS = 64


def measure(world: World) -> dict[str, Any]:
    """Time per answer in all ways."""
    whole: dict[str, Any] = {"rows": [], "values": {}, "times": {}}
    for kind in KINDS:
        for document in (60, 120) if world.quick else DOCUMENTS:
            add(whole, _one(KindWorld.of(world, kind), document), f"{kind} {document}")
    return whole


def add(whole: dict[str, Any], found: dict[str, Any], name: str) -> None:
    """Add the results for one model to the rest."""
    whole["rows"] += found["rows"]
    whole["values"] |= found["values"]
    whole["times"][name] = found["times"]


def of_each_kind(world: World, measure_one: Callable[[KindWorld], dict[str, Any]]) -> dict[str, Any]:
    """The results for each kind of model."""
    whole: dict[str, Any] = {"rows": [], "values": {}, "times": {}}
    for kind in KINDS:
        add(whole, measure_one(KindWorld.of(world, kind)), kind)
    return whole


def products_of(world: KindWorld) -> tuple[Callable[[], None], int]:
    """Matrix products as wide as the model's, and their FLOPs."""
    config = world.config
    wide = getattr(config, "ffn_dim", None) or config.intermediate_size
    return matrix_products(world.changed(hidden=config.hidden_size, feed_forward=wide), TOKENS)


def _one(world: KindWorld, document: int) -> dict[str, Any]:
    ours = Texts.create(world, document, world.size(ANSWERS, 8))
    few = ours.of(1 if document > 4000 else 2)
    prompts, answers = few.prompts("teacher"), [row["answer_ids"] for row in few.queries]
    whole = [prompts.whole(i) for i in range(len(answers))]
    theirs, tokenizer = world.load()  # a separate model: ours gets another attention
    products, flops = products_of(world)
    fast = {"matrix": products, "targets": ours.targets, "encode": ours.encode, "alone": ours.read_alone}
    slow: dict[str, Callable[[], Any]] = {"peft": lambda: peft_targets(theirs, whole, answers)}
    if find_spec("trl"):
        trainer = sdft_trainer(theirs, ours.teacher.prompter, few.prompt_texts(), world.folder / "sdft")
        slow["sdft"] = SdftTeacher(trainer, few).targets
    if find_spec("lm_eval"):
        harness, context = Harness(theirs, tokenizer), ours.teacher.prompter.context
        pairs = [(context + text, few.text(answer)) for text, answer in zip(few.prompt_texts(), answers, strict=True)]
        slow["harness"] = lambda: harness.logprobs(pairs)
    times = alternate(fast, world.turns) | alternate(slow, 1 if document > 4000 else max(1, world.turns - 1))
    rates = rates_of(times["matrix"], flops)

    config, suffixes = world.config, ours.prompts("teacher").suffixes
    prefix, count = len(prompts.prefix), len(ours.queries[0]["answer_ids"])
    lengths, counts = [len(suffix) + count - 1 for suffix in suffixes], [count] * len(suffixes)
    floor = kind_floors.encoding(config, prefix) + kind_floors.forward(config, lengths, prefix, counts=counts)
    names = {
        "targets": "llmft",
        "peft": "PEFT's example",
        "sdft": "TRL SDFT's teacher",
        "harness": "lm-evaluation-harness, scores alone",
    }
    rows = []
    for arm in [name for name in names if name in times]:
        number = len(lengths) if arm == "targets" else len(answers)
        text = f"{NAMES[world.kind]}, {document} tokens: {names[arm]}"
        rows.append(timed_row("text, teacher", text, times[arm], number, floor, len(lengths), rates))
    values = {}
    for clock in ("wall", "cpu"):
        taken = {name: getattr(found, clock) for name, found in times.items()}
        least = [alone + encode for alone, encode in zip(taken["alone"], taken["encode"], strict=True)]
        where = f"{clock}: {world.kind} {document}"
        values[f"{where}: targets over document once and answers alone"] = ratio(taken["targets"], least)
        own = sorted(taken["targets"])[len(taken["targets"]) // 2] / len(lengths)
        for arm in slow:
            values[f"{where}: {arm} over targets"] = ratio([s / len(answers) for s in taken[arm]], [own] * len(taken[arm]))
    return {"rows": rows, "values": values, "times": {name: found.as_dict() for name, found in times.items()}}
