"""Pretrains the toy checkpoint from scratch, on one CPU core:

    python -m llmft.worlds.nli.pretrain --output_dir my_toy --seed 0

The result is an ordinary Hugging Face directory (OPTForCausalLM, float32). With `--num_pretraining_tasks` the model
meets only some of the ten latent tasks (five rules, each with either meaning of Yes), to study the effect of task diversity on
learning in context (Raventos et al. 2023, arXiv:2306.15063).

The text grows from two demonstrations to more than thirty; auxiliary targets (`scaffold`) are strong at first and
mostly gone at the end. Matrices inside the layers are trained by Muon, everything else by AdamW.
"""

import argparse
import random
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers import OPTForCausalLM

from llmft.errors import InputError
from llmft.worlds.nli.episodes import LATENT_TASKS, Batch, LatentTask, Pairs, choose_tasks, draw_batch
from llmft.worlds.nli.grammar import RULES
from llmft.worlds.nli.model import SIZES, build_model, redraw_placeholders
from llmft.worlds.nli.scaffold import Scaffold, TargetWeights
from llmft.worlds.nli.tokenizer import ID, POSITIONS, build_tokenizer
from llmft.worlds.nli.world import LABEL_WORDS, instruction
from llmft.worlds.pretraining import (
    Report,
    Scheduled,
    Size,
    add_shared_flags,
    build_optimizers,
    follow_schedule,
    progress,
    read_flags,
    save_checkpoint,
)

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
class Recipe(Scheduled):
    """Everything that determines the weights except the seed."""

    size: Size = SIZES["small"]
    phases: tuple[Lesson, ...] = SCHEDULE
    num_tasks: int = len(LATENT_TASKS)
    num_pairs: int = 120_000
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    language_weight: float = 0.1  # of predicting the text itself, in addition to the answers


def pretrain(recipe: Recipe, seed: int, report: Report) -> tuple[OPTForCausalLM, tuple[LatentTask, ...]]:
    """Trains a model; the same recipe and seed give the same bits on one thread. Also returns the latent tasks that it saw."""
    rng, torch_rng = random.Random(seed), torch.Generator().manual_seed(seed)
    tasks = choose_tasks(recipe.num_tasks, rng)
    pairs = Pairs(recipe.num_pairs, rng)
    model = build_model(recipe.size, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        scaffold = Scaffold(recipe.size.width)
    embeddings = model.get_input_embeddings().weight

    def step_loss(phase: Lesson) -> tuple[torch.Tensor, dict[str, float]]:
        batch = draw_batch(rng, pairs, tasks, phase.rows, phase.length)
        with torch.no_grad():
            redraw_placeholders(embeddings, torch_rng)
        loss, logits = losses(model, scaffold, batch, phase.scaffold, recipe.language_weight, random_starts(rng, batch))
        return loss, step_metrics(logits, batch)

    modules = model, scaffold
    optimizers = build_optimizers(model.model.decoder.layers, modules, recipe.muon_rate, recipe.adam_rate)
    follow_schedule(recipe.phases, step_loss, modules, optimizers, report)
    with torch.no_grad():
        redraw_placeholders(embeddings, torch_rng)
    return model.eval(), tasks


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
    """The total loss of a batch, and the (Q, V) logits at its Q query positions in row-major order."""
    ids, answer = torch.from_numpy(batch.ids), torch.from_numpy(batch.answer)
    positions = starts[:, None] + torch.arange(ids.shape[1])
    out = model.model.decoder(input_ids=ids, position_ids=positions, output_hidden_states=True, use_cache=False)
    query = answer >= 0
    logits = model.lm_head(out.last_hidden_state[query])
    loss = F.cross_entropy(logits, answer[query]) + scaffold(out.hidden_states, batch, weights)
    text = ~query[:, :-1]
    language = F.cross_entropy(model.lm_head(out.last_hidden_state[:, :-1][text]), ids[:, 1:][text])
    return loss + language_weight * language, logits


def step_metrics(logits: torch.Tensor, batch: Batch) -> dict[str, float]:
    """Accuracy over the two label words by kind of query; kinds that the batch lacks are left out.

    `first` has no context at all, `told` only an instruction, `shown` shows its answer; `late` are the plain queries in the
    second half of episodes without an instruction, also given by rule.
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
    return {kind: float(right[mask].mean()) for kind, mask in kinds.items() if mask.any()}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the flags."""
    parser = argparse.ArgumentParser(prog="python -m llmft.worlds.nli.pretrain", description=__doc__.split("\n")[0])
    add_shared_flags(parser)
    parser.add_argument(
        "--num_pretraining_tasks",
        type=int,
        default=len(LATENT_TASKS),
        help=f"number of latent tasks, drawn by the seed (default: all {len(LATENT_TASKS)})",
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="dimensions of the model (default: %(default)s)")

    def check(arguments: argparse.Namespace) -> None:
        if not 1 <= arguments.num_pretraining_tasks <= len(LATENT_TASKS):
            raise InputError(f"--num_pretraining_tasks {arguments.num_pretraining_tasks}: choose 1 to {len(LATENT_TASKS)}")

    return read_flags(parser, argv, check)


def main(argv: list[str] | None = None) -> None:
    """The command: flags, training, the checkpoint."""
    arguments = parse_arguments(argv)
    torch.set_num_threads(1)  # matrices this small gain nothing from more, and one thread gives the same bits again
    recipe = Recipe(SIZES[arguments.size], num_tasks=arguments.num_pretraining_tasks)
    with progress(recipe.steps) as report:
        model, tasks = pretrain(recipe, arguments.seed, report)
    record = {"seed": arguments.seed, "tasks": [instruction(*task) for task in tasks], "recipe": asdict(recipe)}
    save_checkpoint(model, build_tokenizer(), arguments.output_dir, record)


if __name__ == "__main__":
    main()
