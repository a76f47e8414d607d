"""Peak memory of training on long answers over a large vocabulary, beyond what is there before it starts (`memory`)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.floors import FLOAT
from benchmarks.kinds import NAMES, KindWorld
from benchmarks.measure import peak_beyond
from benchmarks.peers import sdft_trainer
from benchmarks.results import plain_row
from benchmarks.text_ours import Texts
from benchmarks.text_peers import own_loss
from benchmarks.world import World

KIND = "qwen2"
TOKENS, FEW, MANY = 128, 16, 64
"""Tokens per answer; answers per step."""
DOCUMENT = 500
"""For TRL, whose teacher reads the document, too."""
ITEMS = {
    "ours": "distillation, 16 answers a step",
    "ours_64": "distillation, 64 answers a step",
    "body": "below the output layer, 16 answers a step",
    "body_64": "below the output layer, 64 answers a step",
    "transformers": "transformers' own loss, 16 answers a step",
    "sdft": "TRL SDFT, 16 answers a step",
}


def items() -> list[str]:
    """The items that can be measured here."""
    return [item for item in ITEMS if item != "sdft" or find_spec("trl")]


def measure(world: World, item: str) -> dict[str, Any]:
    """Peak of one item in its own process, all with gradient checkpointing, which is TRL's default: two steps, the first of
    which creates the optimizer's moments."""
    world = KindWorld.of(world, KIND)
    answers, tokens = world.size(MANY if item.endswith("_64") else FEW, 4), world.size(TOKENS, 16)
    flags = ("--per_device_train_batch_size", answers, "--learning_rate", 1e-4, "--gradient_checkpointing")
    texts = Texts.create(world, world.size(DOCUMENT, 60), 2 * answers, *flags, tokens=tokens, trains=True)
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: texts.distil(texts.any_targets()),
        "body": texts.train_body,
        "transformers": lambda: _train_by_own_loss(texts, answers),
        "sdft": lambda: _train_by_sdft(texts, world, answers, tokens),
    }
    if item == "sdft":
        import trl.experimental.sdft  # noqa: F401 (does not count as memory of what is measured)
    texts.warm_up()
    found, mib = peak_beyond(works[item.removesuffix("_64")]), 2**20
    config = world.config
    longest = max(len(example["input_ids"]) for example in texts.examples())
    kept = FLOAT * answers * longest * config.hidden_size * config.num_hidden_layers
    row = plain_row(
        "text, memory", f"{NAMES[KIND]}, LoRA: {ITEMS[item]}", "MiB beyond the weights", found["beyond"] / mib, kept / mib,
        "what enters each layer",
    )  # fmt: skip
    return {"rows": [row], "values": {f"text memory: {item}": found["beyond"]}, "before": found["before"]}


def _train_by_own_loss(texts: Texts, batch: int) -> None:
    import torch

    model, examples = texts.student.model, texts.examples()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    model.train()
    for start in range(0, len(examples), batch):
        own_loss(model, examples[start : start + batch]).backward()
        optimizer.step()
        optimizer.zero_grad()


def _train_by_sdft(texts: Texts, world: KindWorld, batch: int, tokens: int) -> None:
    settings = {
        "per_device_train_batch_size": batch,
        "num_train_epochs": 1,
        "max_completion_length": tokens,
        "generate_from_teacher": True,
        "gradient_checkpointing": True,
    }
    sdft_trainer(texts.student.model, texts.teacher.prompter, texts.prompt_texts(), world.folder / "sdft", **settings).train()
