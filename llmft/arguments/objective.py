"""What context distillation minimises, as a small set of checked choices; flags are checked before torch is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from llmft.errors import InputError

SUPPORTS = ("labels", "labels_rest", "topk", "vocab")
DIVERGENCES = ("forward", "reverse", "jsd")


@dataclass(frozen=True)
class Objective:
    """Loss = temperature^2 * divergence + ce_weight * cross-entropy with the gold label; every field is the flag of its name.

    Attributes:
        support: what the distributions are over. `labels`: the label tokens alone; `labels_rest`: those and one bucket for all
            other mass; `topk`: the teacher's k largest tokens and one bucket (Askell et al. 2021, arXiv:2112.00861, B.5);
            `vocab`: the vocabulary.
        topk: k of support `topk`.
        divergence: `forward` KL(teacher || student), `reverse` KL(student || teacher), or `jsd` (see `divergences.py`).
        jsd_beta: beta of divergence `jsd`, strictly between 0 and 1.
        temperature: T > 0, divides the log-probabilities on the support of teacher and student.
        ce_weight: weight of the cross-entropy with the gold label, 0 or more.

    Raises:
        InputError: a value is out of range, or was given where nothing reads it.
    """

    support: str = "labels"
    topk: int = 50
    divergence: str = "forward"
    jsd_beta: float = 0.5
    temperature: float = 1.0
    ce_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("support", SUPPORTS), ("divergence", DIVERGENCES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"--{name} {getattr(self, name)}: unknown; choose one of {', '.join(allowed)}")
        defaults = {field.name: field.default for field in fields(self)}
        for name, read in (("topk", self.support == "topk"), ("jsd_beta", self.divergence == "jsd")):
            if not read and getattr(self, name) != defaults[name]:
                needed = "--support topk" if name == "topk" else "--divergence jsd"
                raise InputError(f"--{name} {getattr(self, name)}: is read only with {needed}; add that, or leave this out")
        if self.topk < 1:
            raise InputError(f"--topk {self.topk}: must be 1 or more")
        if not 0 < self.jsd_beta < 1:
            raise InputError(
                f"--jsd_beta {self.jsd_beta}: must be above 0 and below 1; the ends are --divergence forward and reverse"
            )
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--temperature {self.temperature}: must be above 0")
        if not 0 <= self.ce_weight < math.inf:
            raise InputError(f"--ce_weight {self.ce_weight}: must be 0 or more")
