"""The loss of context distillation, as a few checked choices; flags are checked before torch is loaded."""

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
        InputError: a value is out of range, or is set where it has no effect.
    """

    support: str = flag(
        "What the distributions are over: `labels` only, `labels_rest` (labels and one bucket for all other tokens), `topk` (the "
        "teacher's k most probable tokens and one bucket), `vocab`; for text answers also `sampled`: the answer's own tokens, "
        "which makes it a cross-entropy. Default: labels; for text answers topk.",
        "labels",
        choices=SUPPORTS,
        needs=SOFT,
        excludes={ON_POLICY: "teacher and student are compared on the student's likeliest tokens"},
        exempt=("topk",),
    )
    topk: int = flag(
        "Number of the teacher's most probable tokens; with --answers student those of the student, with mixed those of both.",
        50,
        at_least=1,
        needs="--support topk",
    )
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
        "Temperature of teacher and student in the loss; the loss is multiplied by its square.",
        1.0,
        above=0,
        needs=SOFT,
        excludes=SAMPLED,
    )
    ce_weight: float = flag(
        "Weight of an added cross-entropy: with the gold labels, which the queries must have; for text answers, with the tokens "
        "of --answers.",
        0.0,
        at_least=0,
        needs=SOFT,
        excludes={ON_POLICY: "the student would learn its own tokens"},
    )
