"""Pretrains the toy checkpoint from nothing, on one CPU core:

    python -m llmft.worlds.nli.pretrain --output_dir my_toy --seed 0

The result is an ordinary Hugging Face directory (OPTForCausalLM, float32). With `--num_pretraining_tasks` the model
meets only some of the ten latent tasks (five rules, each with either meaning of Yes), to study what task diversity does
to learning in context (Raventos et al. 2023, arXiv:2306.15063).

The text grows from two demonstrations to more than thirty; auxiliary targets (`scaffold`) are strong at first and
mostly gone at the end. Matrices inside the layers are trained by Muon, everything else by AdamW.
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
from transformers import OPTForCausalLM
from transformers import logging as transformers_logging

from llmft.errors import InputError
from llmft.runs.store import whole_folder
from llmft.worlds.muon import Muon
from llmft.worlds.nli.episodes import LATENT_TASKS, Batch, LatentTask, Pairs, choose_tasks, draw_batch
from llmft.worlds.nli.grammar import RULES
from llmft.worlds.nli.model import SIZES, Size, build_model, redraw_placeholders
from llmft.worlds.nli.scaffold import Scaffold, TargetWeights
from llmft.worlds.nli.tokenizer import ID, POSITIONS, build_tokenizer
from llmft.worlds.nli.world import LABEL_WORDS, instruction

log = logging.getLogger(__name__)

FULL = TargetWeights()
FADING = TargetWeights(copying=0.0, rules=0.5, inference=0.25)
FADED = TargetWeights(copying=0.0, rules=0.5, inference=0.0)


@dataclass(frozen=True)
class Lesson:
    """`steps` steps on `rows` episodes of `length` tokens each."""

    rows: int
    length: int
    steps: int
    scaffold: TargetWeights = FULL
    rate: float = 1.0  # factor on both learning rates


SCHEDULE = (
    Lesson(96, 24, 800),
    Lesson(20, 64, 1200),
    Lesson(14, 128, 2500),
    Lesson(8, 208, 2500, FADING, rate=0.5),
    Lesson(4, POSITIONS, 800, FADED, rate=0.5),
)


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides the weights."""

    size: Size = SIZES["small"]
    phases: tuple[Lesson, ...] = SCHEDULE
    num_tasks: int = len(LATENT_TASKS)
    num_pairs: int = 120_000
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    language_weight: float = 0.1  # of predicting the text itself, beside the answers

    @property
    def steps(self) -> int:
        """Of all phases together."""
        return sum(phase.steps for phase in self.phases)


def pretrain(
    recipe: Recipe, seed: int, report: Callable[[int, dict[str, float]], None]
) -> tuple[OPTForCausalLM, tuple[LatentTask, ...]]:
    """Trains a model; the same recipe and seed give the same bits on one thread. Also returns the latent tasks it met.

    `report(step, means)` is called after every step with the means of `step_metrics` over the last 100 steps or fewer.
    """
    rng, torch_rng = random.Random(seed), torch.Generator().manual_seed(seed)
    tasks = choose_tasks(recipe.num_tasks, rng)
    pairs = Pairs(recipe.num_pairs, rng)
    model = build_model(recipe.size, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        scaffold = Scaffold(recipe.size.width)
    embeddings = model.get_input_embeddings().weight
    optimizers, parameters = build_optimizers(model, scaffold, recipe), [*model.parameters(), *scaffold.parameters()]

    step, recent = 0, []
    for phase in recipe.phases:
        for _ in range(phase.steps):
            batch = draw_batch(rng, pairs, tasks, phase.rows, phase.length)
            with torch.no_grad():
                redraw_placeholders(embeddings, torch_rng)
            loss, logits = losses(model, scaffold, batch, phase.scaffold, recipe.language_weight, random_starts(rng, batch))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * phase.rate * schedule(step, recipe.steps)
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            recent = [*recent[-99:], step_metrics(loss, logits, batch)]
            report(step, mean_metrics(recent))
    with torch.no_grad():
        redraw_placeholders(embeddings, torch_rng)
    return model.eval(), tasks


def build_optimizers(model: OPTForCausalLM, scaffold: Scaffold, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the layers and AdamW for the rest, each with its peak learning rate."""
    hidden = [p for p in model.model.decoder.layers.parameters() if p.ndim == 2]
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


def random_starts(rng: random.Random, batch: Batch) -> torch.Tensor:
    """(B,) first positions. Half the episodes begin inside the position range, so that all of it is trained early."""
    rows, length = batch.ids.shape
    return torch.tensor([rng.randint(0, POSITIONS - length) if rng.random() < 0.5 else 0 for _ in range(rows)])


def losses(
    model: OPTForCausalLM,
    scaffold: Scaffold,
    batch: Batch,
    weights: TargetWeights,
    language_weight: float,
    starts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole loss of a batch, and the (Q, V) logits at its Q query positions in row-major order."""
    ids, answer = torch.from_numpy(batch.ids), torch.from_numpy(batch.answer)
    positions = starts[:, None] + torch.arange(ids.shape[1])
    out = model.model.decoder(input_ids=ids, position_ids=positions, output_hidden_states=True, use_cache=False)
    query = answer >= 0
    logits = model.lm_head(out.last_hidden_state[query])
    loss = F.cross_entropy(logits, answer[query]) + scaffold(out.hidden_states, batch, weights)
    text = ~query[:, :-1]
    language = F.cross_entropy(model.lm_head(out.last_hidden_state[:, :-1][text]), ids[:, 1:][text])
    return loss + language_weight * language, logits


def step_metrics(loss: torch.Tensor, logits: torch.Tensor, batch: Batch) -> dict[str, float]:
    """Accuracy over the two label words by kind of query, and the whole loss; a kind that the batch lacks is left out.

    `first` has no context at all, `told` only an instruction, `shown` shows its answer; `late` are the plain queries in
    the second half of episodes without an instruction, also by rule.
    """
    labels = [ID[word] for word in LABEL_WORDS]
    query = batch.answer >= 0
    answers = np.array(labels)[logits.detach()[:, labels].argmax(dim=1).numpy()]
    right = answers == batch.answer[query]
    shot, plain = batch.shot[query], batch.plain[query]
    instructed = np.broadcast_to(batch.instructed[:, None], query.shape)[query]
    rule = np.broadcast_to(batch.task[:, None], query.shape)[query] // 2
    late = plain & ~instructed & (shot >= (batch.shot.max() + 1) / 2)
    kinds = {
        "first": plain & ~instructed & (shot == 0),
        "told": plain & instructed & (shot == 0),
        "shown": ~plain,
        "late": late,
        **{name: late & (rule == which) for which, name in enumerate(RULES)},
    }
    return {"loss": loss.item()} | {kind: float(right[mask].mean()) for kind, mask in kinds.items() if mask.any()}


def mean_metrics(recent: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    names = sorted({name for metrics in recent for name in metrics})
    return {name: fmean(metrics[name] for metrics in recent if name in metrics) for name in names}


def save_checkpoint(model: OPTForCausalLM, output_dir: Path, record: dict) -> None:
    """Writes model, tokenizer and `pretraining.json`: the directory appears whole or not at all, and replaces none with files."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output_dir, replace=False) as aside:
        model.save_pretrained(aside)
        build_tokenizer().save_pretrained(aside)
        (aside / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the flags; raises InputError for a value that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m llmft.worlds.nli.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="where the model directory goes; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="decides data and initial weights (default: %(default)s)")
    parser.add_argument(
        "--num_pretraining_tasks",
        type=int,
        default=len(LATENT_TASKS),
        help=f"number of latent tasks, drawn by the seed (default: all {len(LATENT_TASKS)})",
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="dimensions of the model (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.num_pretraining_tasks <= len(LATENT_TASKS):
        raise InputError(f"--num_pretraining_tasks {arguments.num_pretraining_tasks}: choose 1 to {len(LATENT_TASKS)}")
    if arguments.output_dir.exists():
        raise InputError(f"--output_dir {arguments.output_dir} exists: remove it or choose another")
    return arguments


def main(argv: list[str] | None = None) -> None:
    """The command: flags, training, the checkpoint."""
    try:
        arguments = parse_arguments(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)  # matrices this small gain nothing from more, and one thread gives the same bits again
    recipe = Recipe(SIZES[arguments.size], num_tasks=arguments.num_pretraining_tasks)
    started = time.monotonic()
    with tqdm(total=recipe.steps, unit="step", disable=None) as bar:

        def report(step: int, means: dict[str, float]) -> None:
            bar.update()
            if step % 100 == 0:
                line = " ".join(f"{name} {value:.3f}" for name, value in means.items())
                bar.set_postfix_str(line)
                if bar.disable:
                    log.info("%d/%d %.0fs %s", step, recipe.steps, time.monotonic() - started, line)

        model, tasks = pretrain(recipe, arguments.seed, report)
    record = {"seed": arguments.seed, "tasks": [instruction(*task) for task in tasks], "recipe": asdict(recipe)}
    save_checkpoint(model, arguments.output_dir, record)
    log.info("wrote %s after %.0f s", arguments.output_dir, time.monotonic() - started)


if __name__ == "__main__":
    main()
