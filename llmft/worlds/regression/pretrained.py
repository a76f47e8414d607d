"""Finished pretraining runs, read from their records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from llmft.errors import InputError
from llmft.runs.names import DONE
from llmft.worlds.regression.model import Regressors
from llmft.worlds.regression.recipe import RegressionRecipe
from llmft.worlds.regression.tasks import Pool, draw_pools

WEIGHTS = "model.safetensors"
"""The trained ensemble in a run's folder."""


@dataclass(frozen=True)
class PretrainedRun:
    """A finished run of `pretrain`.

    Attributes:
        metrics: `metrics.json`.
        log: entries of `train_log.jsonl`.
    """

    path: Path
    recipe: RegressionRecipe
    metrics: dict[str, Any]
    log: list[dict[str, Any]]

    @property
    def budget(self) -> int:
        """The number of sequences that it was trained on."""
        return self.recipe.steps * self.recipe.batch_size

    def load(self, device: torch.device | str = "cpu") -> tuple[Regressors, list[Pool]]:
        """The trained ensemble and its pools.

        Raises:
            InputError: the weights are missing or damaged.
        """
        recipe = self.recipe
        model = Regressors(recipe.shape, len(recipe.num_pretraining_tasks), recipe.seed)
        try:
            model.load_state_dict(load((self.path / WEIGHTS).read_bytes()))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(
                f"{self.path / WEIGHTS}: the weights are missing or damaged ({type(error).__name__}); do the run again with "
                "--overwrite_output_dir, or measure without them by --path_pairs 0"
            ) from error
        pools = draw_pools(recipe.num_pretraining_tasks, recipe.dimension, recipe.seed, device)
        return model.to(device), pools


def find_pretrained(folder: Path, flag: str) -> list[PretrainedRun]:
    """The finished pretraining runs at or below a folder, ordered by budget and seed.

    Raises:
        InputError: there are none; the line names `flag`.
    """
    runs = [read_pretrained(done.parent) for done in sorted(folder.rglob(DONE)) if method_of(done.parent) == "pretrain"]
    if not runs:
        raise InputError(
            f"{flag} {folder}: there is no finished pretraining run below this folder; name the --output_dir of "
            "python -m llmft.worlds.regression.pretrain"
        )
    return sorted(runs, key=lambda run: (run.recipe.kind, run.budget, run.recipe.seed, run.recipe.num_pretraining_tasks))


def method_of(path: Path) -> str | None:
    """The method of a finished run of this world; None for a run of another task."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return config["method"] if config.get("task") == "regression" else None


def read_pretrained(path: Path) -> PretrainedRun:
    """The run in a folder."""
    config, metrics = (json.loads((path / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "metrics"))
    log = [json.loads(line) for line in (path / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    return PretrainedRun(path, RegressionRecipe.from_record(config), metrics, log)
