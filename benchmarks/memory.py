"""Peak memory of one item, beyond what is there before it starts: the process, its libraries, and the weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks import floors
from benchmarks.distillation import rereading_teacher
from benchmarks.in_context import SHOTS
from benchmarks.measure import peak_beyond
from benchmarks.ours import Distillation, Evaluation
from benchmarks.peers import Harness, sdft, upstream_style, whole_prompts
from benchmarks.results import plain_row
from benchmarks.world import World

QUERIES, BATCH = 16, 8
"""Training takes two steps: AdamW's moments exist from the second on."""
ITEMS = {
    "zero": "llmft, no shots",
    "ours": f"llmft, {SHOTS} shots",
    "naive": "every prompt read whole",
    "harness": "lm-evaluation-harness",
    "upstream": "upstream style",
    "fine_tune": "fine-tuning (PBFT)",
    "distil": "distillation, teacher pass included",
    "rereading": "online teacher, context read each time",
    "sdft": "TRL SDFT",
    "sdft_checkpointing": "TRL SDFT, gradient checkpointing",
}
NEEDS = {"harness": "lm_eval", "sdft": "trl", "sdft_checkpointing": "trl"}


def items() -> list[str]:
    """The items that can be measured here."""
    return [item for item in ITEMS if item not in NEEDS or find_spec(NEEDS[item])]


def measure(world: World, item: str) -> dict[str, Any]:
    """Peak of one item; each needs its own process."""
    training = item in ("fine_tune", "distil", "rereading", "sdft", "sdft_checkpointing")
    work, context = (_training if training else _evaluation)(world, item)
    found = peak_beyond(work)
    shape = world.shape
    floor = floors.training_memory(shape) if training else floors.cache_bytes(shape, context)
    of = "gradients and AdamW's moments" if training else "keys and values of context and one query"
    mib = 2**20
    row = plain_row("memory", ITEMS[item], "MiB beyond the weights", found["beyond"] / mib, floor / mib, of)
    return {"rows": [row], "values": {f"memory: {item}": found["beyond"]}, "before": found["before"]}


def _evaluation(world: World, item: str) -> tuple[Callable[[], Any], int]:
    ours = Evaluation.create(world, 0 if item == "zero" else SHOTS, world.size(96, 8))
    scorer, prompts = ours.scorer, ours.prompts
    model = scorer.model if item != "upstream" else world.load("eager")[0]
    few = [prompts.whole(i) for i in range(4)]
    works: dict[str, Callable[[], Any]] = {
        "zero": ours.score,
        "ours": ours.score,
        "naive": lambda: whole_prompts(model, few, scorer.answers.ids),
        "upstream": lambda: upstream_style(model, few[:2], scorer.answers.ids, world.shape.positions),
    }
    if item == "harness":
        harness = Harness(model, scorer.prompter.tokenizer)
        texts = [scorer.prompter.context + scorer.prompter.prompt_format.query(row) for row in ours.rows[:4]]
        works[item] = lambda: harness.scores(texts, scorer.prompter.prompt_format.words)
    return works[item], prompts.longest


def _training(world: World, item: str) -> tuple[Callable[[], Any], int]:
    ours = Distillation.create(world, SHOTS, world.size(QUERIES, 4), world.size(BATCH, 2))
    ours.warm_up()
    works: dict[str, Callable[[], Any]] = {
        "fine_tune": ours.fine_tune,
        "distil": lambda: ours.distil(ours.teacher_pass()),
        "rereading": lambda: ours.distil_online(rereading_teacher(ours)),
    }
    if item in works:
        return works[item], len(ours.prompts("teacher").prefix)
    return sdft(ours, world.folder / "sdft", checkpointing=item == "sdft_checkpointing"), len(ours.prompts("teacher").prefix)
