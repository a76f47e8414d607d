"""What context distillation minimises, as a small set of checked choices; flags are checked before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag

SUPPORTS = ("labels", "labels_rest", "topk", "vocab")
DIVERGENCES = ("forward", "reverse", "jsd")
SOFT = "--targets soft"


@dataclass
class Objective(Checked):
    """Loss = temperature^2 * divergence + ce_weight * cross-entropy with the gold label; every field is a flag.

    `topk` with its bucket is from Askell et al. 2021 (arXiv:2112.00861, B.5); `temperature` divides the log-probabilities on
    the support; for the divergences see `distillation/divergences.py`.

    Raises:
        InputError: a value is out of range, or is given where nothing reads it.
    """

    support: str = flag(
        "labels",
        "What the distributions are over: `labels` alone, `labels_rest` (and one bucket for all other tokens), `topk` (the "
        "teacher's k largest and one bucket), `vocab`.",
        choices=SUPPORTS,
        needs=SOFT,
    )
    topk: int = flag(50, "How many tokens of the teacher's.", at_least=1, needs="--support topk")
    divergence: str = flag(
        "forward",
        "`forward` KL(teacher || student), `reverse` KL(student || teacher), or `jsd`.",
        choices=DIVERGENCES,
        needs=SOFT,
    )
    jsd_beta: float = flag(
        0.5,
        "Weight of the teacher in the mixture.",
        above=0,
        below=1,
        hint="; the ends are --divergence forward and reverse",
        needs="--divergence jsd",
    )
    temperature: float = flag(
        1.0, "Temperature of teacher and student in the loss, which is multiplied by its square.", above=0, needs=SOFT
    )
    ce_weight: float = flag(
        0.0, "Weight of the cross-entropy with gold labels that is added; the queries must have them.", at_least=0, needs=SOFT
    )
