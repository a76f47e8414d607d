"""Training on texts: an epoch of distillation compared with one of SFT on the same answers, and whole distillations with
TRL's."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from benchmarks import kind_floors
from benchmarks.distillation import loop_clock
from benchmarks.kinds import NAMES, KindWorld
from benchmarks.measure import alternate, ratio
from benchmarks.peers import sdft_trainer
from benchmarks.results import rates_of, timed_row
from benchmarks.text_ours import TOKENS, Texts
from benchmarks.text_teacher import ANSWERS, of_each_kind, products_of
from benchmarks.world import World

DOCUMENT = 2000
EPOCHS = 3
BATCH = 16
LEARNING_RATE = 1e-4


def measure(world: World) -> dict[str, Any]:
    """Time per answer in all ways."""
    return of_each_kind(world, _one)


def _one(world: KindWorld) -> dict[str, Any]:
    many, few, batch = world.size(ANSWERS, 8), world.size(4, 2), world.size(BATCH, 4)
    settings = {"per_device_train_batch_size": batch, "learning_rate": LEARNING_RATE}
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    ours = Texts.create(world, world.size(DOCUMENT, 60), many, *flags, trains=True)
    targets = ours.targets()
    loops: list[float] = []
    products, flops = products_of(world)
    fast = {
        "matrix": products,
        "sft": lambda: ours.fine_tune(callbacks=[loop_clock(loops)]),
        "distil": lambda: ours.distil(targets),
    }
    times = alternate(fast, 2 * world.turns)  # a few hundredths apart at most
    slow = {"whole": lambda: ours.whole(EPOCHS)}
    if find_spec("trl"):
        theirs = Texts.create(world, world.size(DOCUMENT, 60), few, *flags, trains=True)
        slow["sdft"] = lambda: _sdft(theirs, world, few)
    times |= alternate(slow, max(1, world.turns - 1))

    rates, config = rates_of(times["matrix"], flops), world.config
    lengths = [len(example["input_ids"]) for example in ours.examples()]
    prompts = ours.prompts("teacher")
    suffixes, prefix, counts = [*map(len, prompts.suffixes)], len(prompts.prefix), [TOKENS] * many
    step = kind_floors.lora_step(config, lengths, counts)
    answered = [length + TOKENS - 1 for length in suffixes]
    least = kind_floors.encoding(config, prefix) + kind_floors.writing(config, suffixes, prefix, TOKENS, many)
    least += kind_floors.forward(config, answered, prefix, counts=counts)
    for _ in range(EPOCHS):
        least += step
    names = {
        "sft": ("SFT epoch", many, step),
        "distil": ("distillation epoch, targets there", many, step),
        "whole": (f"distillation, {DOCUMENT} tokens, {EPOCHS} epochs", many, least),
        "sdft": (f"TRL SDFT, {DOCUMENT} tokens, {EPOCHS} epochs", few, least),
    }
    rows = [
        timed_row("text, training", f"{NAMES[world.kind]}: {name}", times[arm], number, floor, many, rates)
        for arm, (name, number, floor) in names.items()
        if arm in times
    ]
    values: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        taken = {name: getattr(found, clock) for name, found in times.items()}
        values[f"{clock}: {world.kind}: text distillation over SFT"] = ratio(taken["distil"], taken["sft"])
        if "sdft" in taken:
            each = [[seconds / number for seconds in taken[arm]] for arm, number in (("sdft", few), ("whole", many))]
            values[f"{clock}: {world.kind}: sdft over whole distillation of texts"] = ratio(*each)
    values[f"wall: {world.kind}: utilisation, training step on texts"] = ratio(
        [step.flops / seconds for seconds in loops], [flops / seconds for seconds in times["matrix"].wall]
    )
    return {"rows": rows, "values": values, "times": {name: found.as_dict() for name, found in times.items()}}


def _sdft(texts: Texts, world: KindWorld, batch: int) -> None:
    settings = {
        "per_device_train_batch_size": batch,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": EPOCHS,
        "max_completion_length": TOKENS,
        "generate_from_teacher": True,
        "gradient_checkpointing": False,
    }
    sdft_trainer(texts.student.model, texts.teacher.prompter, texts.prompt_texts(), world.folder / "sdft", **settings).train()
