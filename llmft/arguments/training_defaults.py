"""Learning rate and epochs where the flags say nothing: by what is trained, for what, and on how many rows.

docs/defaults.md has the searches that the numbers come from. A task whose own model needs others has them in its entry of the
task table. Rates are for AdamW. A run's name holds the values in force, so that a change here gives new names to new runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

PAPER = {"learning_rate": 1e-5, "num_train_epochs": 40.0}
"""Mosbach et al. 2023, Table 7: what ft.py uses for all weights. A record's `given` leaves these out."""

PART_NAMES = {
    None: "all weights",
    "head_only": "the output layer",
    "bitfit": "the biases",
    "lora": "LoRA",
    "ia3": "IA3",
    "parallel": "parallel adapters",
    "parallel-attn": "parallel adapters beside attention",
    "parallel-fc": "parallel adapters beside the feed-forward",
    "soft_prompt": "a soft prompt",
    "cartridge": "a cartridge",
}
"""Trained part, as `AdapterArguments.part` names it -> what people call it."""


@dataclass(frozen=True)
class TrainingDefaults:
    """How one part is trained.

    Attributes:
        learning_rate: AdamW's peak rate.
        rows_seen: rows that all epochs read together, a row counted each time it is read; infinite: `most_epochs` always.
        most_epochs: the epochs that few rows are read in.
    """

    learning_rate: float
    rows_seen: float = math.inf
    most_epochs: int = 40

    @property
    def by_rows(self) -> bool:
        """Whether the epochs depend on the rows."""
        return self.rows_seen < math.inf

    def epochs(self, rows: int) -> int:
        """Passes over so many rows: as many as it takes to read `rows_seen`, from 1 to `most_epochs`."""
        return math.ceil(min(max(self.rows_seen / max(rows, 1), 1), self.most_epochs))


Defaults = Mapping[str | None, TrainingDefaults]
"""Trained part -> how it is trained; None is all weights."""

QUERIES_SEEN = 1536
"""Queries that distillation reads in all epochs: 6 epochs over 256 queries, 4 over 384, 1 over 1536 or more."""

DISTILLATION: Defaults = {
    part: TrainingDefaults(learning_rate, QUERIES_SEEN)
    for part, learning_rate in {
        None: 2e-5,
        "head_only": 1e-4,
        "bitfit": 5e-4,
        "lora": 5e-4,
        "ia3": 1e-2,
        "parallel": 5e-4,
        "parallel-attn": 5e-4,
        "parallel-fc": 5e-4,
        "soft_prompt": 1e-2,
        "cartridge": 1e-3,  # it starts as the context: there is little left to learn
    }.items()
}

FINE_TUNING: Defaults = {
    None: TrainingDefaults(PAPER["learning_rate"]),
    "head_only": TrainingDefaults(1e-4),
    "bitfit": TrainingDefaults(1e-4, most_epochs=100),  # upstream's sweep
    "lora": TrainingDefaults(2e-4, most_epochs=80),  # upstream's sweep
    "ia3": TrainingDefaults(3e-3, rows_seen=8000, most_epochs=250),  # T-Few: 1000 steps of 8 rows (Liu et al. 2022)
    "parallel": TrainingDefaults(2e-4, most_epochs=80),
    "parallel-attn": TrainingDefaults(2e-4, most_epochs=80),
    "parallel-fc": TrainingDefaults(2e-4, most_epochs=80),
    "soft_prompt": TrainingDefaults(1e-2),
    "cartridge": TrainingDefaults(1e-2),
}
