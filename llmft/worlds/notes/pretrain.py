"""Pretrains the checkpoint of the notes world from scratch, on one CPU core:

    python -m llmft.worlds.notes.pretrain --output_dir my_notes --seed 0

The result is an ordinary Hugging Face directory (LlamaForCausalLM, float32). Every episode is a new document, never seen again,
followed by questions. Documents grow from a few facts to 32; auxiliary targets (`scaffold`) are strong at first. Matrices
inside the layers are trained by Muon, everything else by AdamW.
"""

import argparse
import random
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llmft.worlds.notes.episodes import GROUPS, IGNORED, NotesBatch, draw_episodes
from llmft.worlds.notes.model import SIZE, build_notes_model
from llmft.worlds.notes.scaffold import NotesScaffold
from llmft.worlds.notes.tokenizer import build_notes_tokenizer
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


@dataclass(frozen=True)
class NotesLesson:
    """`steps` steps on `rows` documents with numbers of facts and places in these ranges, each with this number of questions."""

    steps: int
    rows: int
    facts: tuple[int, int]
    places: tuple[int, int]
    questions: int
    scaffold: float = 1.0
    rate: float = 1.0  # factor on both learning rates


@dataclass(frozen=True)
class NotesRecipe(Scheduled):
    """Everything that determines the weights except the seed."""

    size: Size = SIZE
    phases: tuple[NotesLesson, ...] = (
        NotesLesson(500, 10, (2, 6), (1, 3), 6),
        NotesLesson(500, 6, (6, 16), (2, 5), 12, rate=0.6),
        NotesLesson(1200, 5, (16, 32), (4, 6), 16, scaffold=0.5, rate=0.5),
    )
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    language_weight: float = 0.1  # of predicting the document itself, in addition to the answers


def pretrain_notes(recipe: NotesRecipe, seed: int, report: Report) -> LlamaForCausalLM:
    """Trains a model; the same recipe and seed give the same bits on one thread."""
    rng = random.Random(seed)
    model = build_notes_model(recipe.size, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        scaffold = NotesScaffold(recipe.size.width)

    def step_loss(lesson: NotesLesson) -> tuple[torch.Tensor, dict[str, float]]:
        batch = draw_episodes(rng, lesson.rows, lesson.facts, lesson.places, lesson.questions)
        losses, logits = answer_losses(model, scaffold, batch)
        weights = {"answers": 1.0, "language": recipe.language_weight}
        loss = sum(weights.get(name, lesson.scaffold) * value for name, value in losses.items())
        return loss, answer_metrics(logits, batch) | {name: value.item() for name, value in losses.items()}

    modules = model, scaffold
    optimizers = build_optimizers(model.model.layers, modules, recipe.muon_rate, recipe.adam_rate)
    follow_schedule(recipe.phases, step_loss, modules, optimizers, report)
    return model.eval()


def answer_losses(
    model: LlamaForCausalLM, scaffold: NotesScaffold, batch: NotesBatch
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """All losses of a batch by name, and the (A, V) logits where a token of an answer is due, in row-major order."""
    answer, stated = torch.from_numpy(batch.answer), torch.from_numpy(batch.stated)
    out = model.model(
        input_ids=torch.from_numpy(batch.ids),
        position_ids=torch.from_numpy(batch.positions),
        attention_mask=torch.from_numpy(batch.visible()[:, None]),
        output_hidden_states=True,
        use_cache=False,
    )
    due, text = answer != IGNORED, stated != IGNORED
    logits = model.lm_head(out.last_hidden_state[due])
    losses = {
        "answers": F.cross_entropy(logits, answer[due]),
        "language": F.cross_entropy(model.lm_head(out.last_hidden_state[text]), stated[text]),
    }
    return losses | scaffold(model.model, out.hidden_states, batch), logits


def answer_metrics(logits: torch.Tensor, batch: NotesBatch) -> dict[str, float]:
    """The share of right first tokens of answers by group of question, and of right later tokens; groups that the batch lacks
    are left out."""
    due = batch.answer != IGNORED
    right = logits.detach().argmax(dim=1).numpy() == batch.answer[due]
    group, first = batch.group[due], batch.index[due] == 0
    shares = {name: right[(group == i) & first] for i, name in enumerate(GROUPS)} | {"later": right[~first]}
    return {name: float(share.mean()) for name, share in shares.items() if len(share)}


def main(argv: list[str] | None = None) -> None:
    """The command: flags, training, the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m llmft.worlds.notes.pretrain", description=__doc__.split("\n")[0])
    add_shared_flags(parser)
    arguments = read_flags(parser, argv)
    torch.set_num_threads(1)  # one thread gives the same bits again
    recipe = NotesRecipe()
    with progress(recipe.steps) as report:
        model = pretrain_notes(recipe, arguments.seed, report)
    record = {"seed": arguments.seed, "recipe": asdict(recipe)}
    save_checkpoint(model, build_notes_tokenizer(), arguments.output_dir, record)


if __name__ == "__main__":
    main()
