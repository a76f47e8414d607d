"""The frozen teacher: reads context and query, once for every query, before the student's training begins.

The teacher is the student's own start. Its pass runs without gradients, and when training starts only its answers are
left of it: no second copy in memory and nothing that training could touch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmft.cost.meter import Phase
from llmft.evaluation.score import Asker
from llmft.tasks.table import Row


def teacher_targets(teacher: Asker, queries: Sequence[Row], phase: Phase) -> torch.Tensor:
    """The teacher's log-probabilities (N, L) over the labels behind its context, calibrated if it calibrates.

    Raises:
        InputError: a prompt does not fit the teacher's window.
    """
    return torch.from_numpy(teacher.score(queries, phase).label_logprobs).float()
