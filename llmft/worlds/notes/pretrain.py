"""Pretrains the checkpoint of the notes world from nothing, on one CPU core:

    python -m llmft.worlds.notes.pretrain --output_dir my_notes --seed 0
"""

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaForCausalLM
from transformers import logging as transformers_logging

from llmft.errors import InputError
from llmft.runs.store import whole_folder
from llmft.worlds.muon import Muon
from llmft.worlds.notes.episodes import IGNORED, Batch, draw_batch
from llmft.worlds.notes.model import SIZE, Size, build_model
from llmft.worlds.notes.scaffold import Scaffold
from llmft.worlds.notes.tokenizer import VOCABULARY, build_tokenizer

log = logging.getLogger(__name__)
GROUPS = ("forward", "reverse", "unstated", "alone")


@dataclass(frozen=True)
class Lesson:
    """`steps` steps on `rows` documents with numbers of facts and places in these ranges, each with so many questions."""

    steps: int
    rows: int
    facts: tuple[int, int]
    places: tuple[int, int]
    questions: int
    scaffold: float = 1.0
    rate: float = 1.0  # factor on both learning rates


SCHEDULE = (
    Lesson(1000, 10, (2, 6), (1, 3), 6),
    Lesson(1000, 6, (6, 16), (2, 5), 12),
    Lesson(1500, 5, (16, 32), (4, 6), 16, scaffold=0.3),
)


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides the weights."""

    size: Size = SIZE
    phases: tuple[Lesson, ...] = SCHEDULE
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    language_weight: float = 0.1  # of predicting the document itself, beside the answers

    @property
    def steps(self) -> int:
        """Of all phases together."""
        return sum(phase.steps for phase in self.phases)


def pretrain(recipe: Recipe, seed: int, report: Callable[[int, dict[str, float]], None]) -> LlamaForCausalLM:
    """Trains a model; the same recipe and seed give the same bits on one thread.

    `report(step, means)` is called after every step with the means of `step_metrics` over the last 100 steps or fewer.
    """
    rng = random.Random(seed)
    model = build_model(recipe.size, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        scaffold = Scaffold(recipe.size.width, len(VOCABULARY))
    optimizers, parameters = build_optimizers(model, scaffold, recipe), [*model.parameters(), *scaffold.parameters()]
    step, recent = 0, []
    for phase in recipe.phases:
        for _ in range(phase.steps):
            batch = draw_batch(rng, phase.rows, phase.facts, phase.places, phase.questions)
            loss, logits = losses(model, scaffold, batch, phase.scaffold, recipe.language_weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * phase.rate * schedule(step, recipe.steps)
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            recent = [*recent[-99:], step_metrics(loss, logits, batch) | scaffold.parts]
            report(step, mean_metrics(recent))
    return model.eval()


def build_optimizers(model, scaffold: Scaffold, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the layers and AdamW for the rest, each with its peak learning rate."""
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in hidden}
    rest = [p for p in [*model.parameters(), *scaffold.parameters()] if id(p) not in inside]
    return [
        (Muon(hidden, lr=recipe.muon_rate), recipe.muon_rate),
        (torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.01), recipe.adam_rate),
    ]


def schedule(step: int, total: int) -> float:
    """Factor on the learning rates: 100 steps of warm-up, constant until 60 %, then down in a line to 3 %."""
    warm_up = min(1.0, (step + 1) / 100)
    return warm_up * min(1.0, max(0.03, (1 - step / total) / 0.4))


def losses(
    model: LlamaForCausalLM, scaffold: Scaffold, batch: Batch, scaffold_weight: float, language_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole loss of a batch, and the (A, V) logits where a token of an answer is due, in row-major order."""
    answer, stated = torch.from_numpy(batch.answer), torch.from_numpy(batch.stated)
    out = model.model(
        input_ids=torch.from_numpy(batch.ids),
        position_ids=torch.from_numpy(batch.positions),
        attention_mask=torch.from_numpy(batch.visible()),
        output_hidden_states=True,
        use_cache=False,
    )
    due, text = answer != IGNORED, stated != IGNORED
    logits = model.lm_head(out.last_hidden_state[due])
    loss = F.cross_entropy(logits, answer[due])
    loss = loss + language_weight * F.cross_entropy(model.lm_head(out.last_hidden_state[text]), stated[text])
    if scaffold_weight:
        loss = loss + scaffold_weight * scaffold(model.model, out.hidden_states, batch)
    return loss, logits


def step_metrics(loss: torch.Tensor, logits: torch.Tensor, batch: Batch) -> dict[str, float]:
    """The whole loss, and the share of right answer tokens by group of question; a group that the batch lacks is left out."""
    due = batch.answer != IGNORED
    right = logits.detach().argmax(dim=1).numpy() == batch.answer[due]
    group, first = batch.group[due], batch.index[due] == 0
    shares = {name: right[(group == i) & first] for i, name in enumerate(GROUPS)} | {"later": right[~first]}
    return {"loss": loss.item()} | {name: float(share.mean()) for name, share in shares.items() if len(share)}


def mean_metrics(recent: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    names = sorted({name for metrics in recent for name in metrics})
    return {name: fmean(metrics[name] for metrics in recent if name in metrics) for name in names}


def save_checkpoint(model, output_dir: Path, record: dict) -> None:
    """Writes model, tokenizer and `pretraining.json`: the directory appears whole or not at all, and replaces none with files."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output_dir, replace=False) as aside:
        model.save_pretrained(aside)
        build_tokenizer().save_pretrained(aside)
        (aside / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    recipe = Recipe()
    started = time.monotonic()
    with tqdm(total=recipe.steps, unit="step", disable=None) as bar:

        def report(step: int, means: dict[str, float]) -> None:
            bar.update()
            if step % 100 == 0:
                line = " ".join(f"{name} {value:.3f}" for name, value in means.items())
                bar.set_postfix_str(line)
                if bar.disable:
                    log.info("%d/%d %.0fs %s", step, recipe.steps, time.monotonic() - started, line)

        model = pretrain(recipe, arguments.seed, report)
    save_checkpoint(model, arguments.output_dir, {"seed": arguments.seed, "recipe": asdict(recipe)})
    log.info("wrote %s after %.0f s", arguments.output_dir, time.monotonic() - started)


if __name__ == "__main__":
    main()
