"""Reading checkpoints of unfinished runs, such that a damaged one gives one clear line and none can run code.

transformers reads its parts with `weights_only`, ours is JSON. DeepSpeed's own files are pickles, which it loads as pickles:
resume under DeepSpeed only in an output folder that is yours.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import Trainer

from llmft.models.distributed import weights_outside, whole_weights
from llmft.models.wrapping import bare_model
from llmft.runs.names import PROGRESS
from llmft.runs.record import readable
from llmft.runs.store import sync_folder, write_json


class ReadableCheckpoint(Trainer):
    """A Trainer that reports a damaged checkpoint in one clear line."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with whole_weights(weights_outside(self.model, bare_model(self.model))):  # peft takes these from the model itself
            super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A weight with several names, such as a tied output layer, is in a checkpoint under one of them: transformers would
        warn about the other names, and carry on without weights that are missing altogether."""
        missing, names = set(load_result.missing_keys), defaultdict(set)
        for name, weight in self.model.named_parameters(remove_duplicate=False):
            names[weight].add(name)
        saved = {name for same in names.values() if not same <= missing for name in same}
        lost = sorted(missing - saved - set(self.model._keys_to_ignore_on_save or ()))
        if lost:
            raise KeyError(lost[0])
        super()._issue_warnings_after_load(SimpleNamespace(missing_keys=[], unexpected_keys=load_result.unexpected_keys))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with readable(checkpoint):
            super()._load_rng_state(checkpoint)


def write_progress(checkpoint: Path, progress: dict[str, Any]) -> None:
    """Write our own state of an unfinished run, JSON-able, into a checkpoint, which is then complete."""
    sync_folder(checkpoint)
    write_json(checkpoint / PROGRESS, progress)


def read_progress(checkpoint: str) -> dict[str, Any]:
    """What `write_progress` wrote into a checkpoint.

    Raises:
        InputError: it is damaged.
    """
    with readable(checkpoint):
        return json.loads((Path(checkpoint) / PROGRESS).read_text(encoding="utf-8"))
