"""The training of an ensemble: its step, and the state that it resumes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from llmft.runs.launch import this_process
from llmft.runs.names import PROGRESS
from llmft.runs.record import readable
from llmft.runs.store import whole_folder, write_json
from llmft.worlds.muon import Muon
from llmft.worlds.regression.model import Regressors
from llmft.worlds.regression.recipe import RegressionRecipe
from llmft.worlds.regression.tasks import draw_pools, draw_sequences, seeded_generator

TRAINING = 2
"""Together with the seed and the step, this decides the stream of training sequences."""
STATE = "state.pt"


class EnsembleTraining:
    """An ensemble in training. Its batches depend only on seed and step, not on what was drawn before.

    Args:
        device: what it is trained on.
        compiled: whether torch compiles the model.
    """

    def __init__(self, recipe: RegressionRecipe, device: torch.device, compiled: bool) -> None:
        self.recipe, self.device, self.step = recipe, device, 0
        self.pools = draw_pools(recipe.num_pretraining_tasks, recipe.dimension, recipe.seed, device)
        self.model = Regressors(recipe.shape, len(self.pools), recipe.seed).to(device)
        self.optimizers = build_ensemble_optimizers(self.model, recipe)
        forward = torch.compile(self.model) if compiled else self.model
        self._forward = DistributedDataParallel(forward) if this_process().world_size > 1 else forward
        self.log: list[dict[str, Any]] = []

    def take_step(self) -> torch.Tensor:
        """Train all members for one step on a new batch, of which each process takes its share.

        Returns:
            (E,) losses of this process's share, normalised (eq. 1).
        """
        recipe, process = self.recipe, this_process()
        generator = seeded_generator(recipe.seed, TRAINING, self.step, device=self.device)
        drawn = draw_sequences(self.pools, recipe.problem, recipe.batch_size, generator)
        share = slice(process.rank, None, process.world_size)
        x, labels = drawn.x[share], drawn.labels[:, share]
        losses = (self._forward(x, labels) - labels).square().mean((1, 2))
        losses.sum().backward()  # each member's gradient is that of its own loss
        factor = recipe.rate_factor_at(self.step)
        for optimizer, rate in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return losses.detach() / recipe.dimension

    def save(self, folder: Path, costs: dict[str, Any]) -> None:
        """Save `checkpoint-<step>` to a folder, with the costs so far, and remove earlier ones."""
        path = folder / f"checkpoint-{self.step}"
        folder.mkdir(exist_ok=True)
        with whole_folder(path) as aside:
            states = {"model": self.model.state_dict(), "optimizers": [one.state_dict() for one, _ in self.optimizers]}
            torch.save(states, aside / STATE)
            write_json(aside / PROGRESS, {"step": self.step, "log": self.log, "costs": costs})
        for earlier in set(folder.glob("checkpoint-*")) - {path}:
            shutil.rmtree(earlier, ignore_errors=True)

    def load(self, checkpoint: Path) -> dict[str, Any]:
        """Resume from a checkpoint.

        Returns:
            The costs up to then.

        Raises:
            InputError: it is damaged.
        """
        with readable(checkpoint):
            progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
            states = torch.load(checkpoint / STATE, map_location=self.device, weights_only=True)
            self.model.load_state_dict(states["model"])
            for (optimizer, _), state in zip(self.optimizers, states["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.step, self.log = progress["step"], progress["log"]
            return progress["costs"]


def build_ensemble_optimizers(model: Regressors, recipe: RegressionRecipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """The optimizers, each with its peak rate. Weight decay applies only to the matrices inside the blocks."""
    kernels = model.kernels()
    inside = {id(parameter) for parameter in kernels}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": 0.0}]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = []
    if recipe.optimizer == "muon":
        optimizers.append((Muon(kernels, lr=recipe.muon_rate, weight_decay=recipe.weight_decay), recipe.muon_rate))
    else:
        groups.append({"params": kernels, "weight_decay": recipe.weight_decay})
    adam = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True)
    return [*optimizers, (adam, recipe.learning_rate)]
