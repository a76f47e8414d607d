"""What context distillation minimises, as a small set of checked choices; flags are checked before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag

SUPPORTS = ("labels", "labels_rest", "topk", "vocab", "sampled")
DIVERGENCES = ("forward", "reverse", "jsd")
SOFT = "--targets soft"
ON_POLICY = "--answers student|mixed"
SAMPLED = {"--support sampled": "which is a cross-entropy with the tokens of answers"}


@dataclass
class Objective(Checked):
    """Loss = temperature^2 * divergence + ce_weight * cross-entropy with the gold label; every field is a flag.

    `topk` with its bucket is from Askell et al. 2021 (arXiv:2112.00861, B.5); `temperature` divides the log-probabilities on
    the support; for the divergences see `distillation/divergences.py`.

    Raises:
        InputError: a value is out of range, or is given where nothing reads it.
    """

    support: str = flag(
        "What the distributions are over: `labels` alone, `labels_rest` (and one bucket for all other tokens), `topk` (the "
        "teacher's k largest and one bucket), `vocab`; of answers in words also `sampled`: the answer's own tokens, which is a "
        "cross-entropy. Default: labels; of answers in words topk.",
        "labels",
        choices=SUPPORTS,
        needs=SOFT,
        excludes={ON_POLICY: "teacher and student are compared on the student's likeliest tokens"},
        exempt=("topk",),
    )
    topk: int = flag("How many tokens of the teacher's.", 50, at_least=1, needs="--support topk")
    divergence: str = flag(
        "`forward` KL(teacher || student), `reverse` KL(student || teacher), or `jsd`. Default: forward; reverse with "
        "--answers student.",
        "forward",
        choices=DIVERGENCES,
        needs=SOFT,
        excludes=SAMPLED,
    )
    jsd_beta: float = flag(
        "Weight of the teacher in the mixture.",
        0.5,
        above=0,
        below=1,
        hint="; the ends are --divergence forward and reverse",
        needs="--divergence jsd",
    )
    temperature: float = flag(
        "Temperature of teacher and student in the loss, which is multiplied by its square.",
        1.0,
        above=0,
        needs=SOFT,
        excludes=SAMPLED,
    )
    ce_weight: float = flag(
        "Weight of the cross-entropy that is added: with gold labels, which the queries must have; of answers in words with the "
        "tokens of --answers.",
        0.0,
        at_least=0,
        needs=SOFT,
        excludes={ON_POLICY: "the student would learn its own tokens"},
    )
