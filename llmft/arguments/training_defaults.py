"""Default learning rates and epochs, depending on the trained part, the method, and the number of rows.

docs/defaults.md describes the searches behind these numbers. A task whose own model needs others has them in its entry in the
task table. Rates are for AdamW. A run's name includes the values in effect, so a change here gives new runs new names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

PAPER = {"learning_rate": 1e-5, "num_train_epochs": 40.0}
"""Mosbach et al. 2023, Table 7: the values of ft.py for all weights. A record's `given` omits them."""


@dataclass(frozen=True)
class TrainingDefaults:
    """How one part is trained.

    Attributes:
        learning_rate: AdamW's peak rate.
        rows_seen: rows read in all epochs together, counting repeats; infinite: always `most_epochs`.
        most_epochs: the maximum number of epochs, used if there are few rows.
    """

    learning_rate: float
    rows_seen: float = math.inf
    most_epochs: int = 40

    @property
    def by_rows(self) -> bool:
        """Whether the number of epochs depends on the number of rows."""
        return self.rows_seen < math.inf

    def epochs(self, rows: int) -> int:
        """The number of passes over this many rows that it takes to read `rows_seen`, from 1 to `most_epochs`."""
        return math.ceil(min(max(self.rows_seen / max(rows, 1), 1), self.most_epochs))


Defaults = Mapping[str | None, TrainingDefaults]
"""Trained part -> how it is trained; None is all weights."""

QUERIES_SEEN = 1536
"""Queries that distillation reads in all epochs together: 6 epochs over 256 queries, 4 over 384, 1 over 1536 or more."""

PARTS = (
    (None, "all weights", 2e-5, TrainingDefaults(PAPER["learning_rate"])),
    ("head_only", "the output layer", 1e-4, TrainingDefaults(1e-4)),
    ("bitfit", "the biases", 5e-4, TrainingDefaults(1e-4, most_epochs=100)),  # upstream's sweep
    ("lora", "LoRA", 5e-4, TrainingDefaults(2e-4, most_epochs=80)),  # upstream's sweep
    ("ia3", "IA3", 1e-2, TrainingDefaults(3e-3, 8000, most_epochs=250)),  # T-Few: 1000 steps of 8 rows (Liu et al. 2022)
    ("parallel", "parallel adapters", 5e-4, TrainingDefaults(2e-4, most_epochs=80)),
    ("parallel-attn", "parallel adapters beside attention", 5e-4, TrainingDefaults(2e-4, most_epochs=80)),
    ("parallel-fc", "parallel adapters beside the feed-forward", 5e-4, TrainingDefaults(2e-4, most_epochs=80)),
    ("soft_prompt", "a soft prompt", 1e-2, TrainingDefaults(1e-2)),
    ("cartridge", "a cartridge", 1e-3, TrainingDefaults(1e-2)),  # distilled ones start as the context: little left to learn
)
"""Trained part (`AdapterArguments.part`); its name for users; its rate in distillation; its settings in fine-tuning."""

PART_NAMES = {part: name for part, name, _, _ in PARTS}
DISTILLATION: Defaults = {part: TrainingDefaults(rate, QUERIES_SEEN) for part, _, rate, _ in PARTS}
FINE_TUNING: Defaults = {part: training for part, _, _, training in PARTS}
