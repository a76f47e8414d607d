"""A teacher's answers to evaluation rows, and the divergence of other models from it along these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmft.distillation.divergences import forward_kl
from llmft.distillation.targets import Targets, support_scores, tempered
from llmft.evaluation.answers import Question
from llmft.tasks.schema import Row


@dataclass(frozen=True)
class TeacherReference:
    """The teacher's answers to rows, and its distributions along them.

    Attributes:
        rows: each with the tokens of its answer, `answer_ids`.
        targets: of each row, on the support `topk`.
    """

    rows: Sequence[Row]
    targets: Sequence[Targets]

    def of(self, places: Sequence[int]) -> TeacherReference:
        """The reference for only the rows at these places."""
        return TeacherReference([self.rows[i] for i in places], [self.targets[i] for i in places])

    @property
    def question(self) -> DivergenceQuestion:
        """The question for `kl` at each token of the answers."""
        return DivergenceQuestion(
            torch.cat([one.logprobs for one in self.targets]), torch.cat([one.tokens for one in self.targets])
        )


@dataclass(frozen=True)
class DivergenceQuestion(Question):
    """The question for KL(teacher || model), in nats, over the teacher's k largest tokens and the rest.

    Attributes:
        logprobs, tokens: (P, k + 1) and (P, k) of the teacher, as in `Targets`.
    """

    logprobs: torch.Tensor
    tokens: torch.Tensor

    def keep(self, logits: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """`kl` (p,)."""
        where = positions.to(self.logprobs.device)
        teacher, tokens = (part[where].to(logits.device) for part in (self.logprobs, self.tokens))
        return {"kl": forward_kl(teacher, tempered(support_scores(logits, "topk", tokens), 1.0))}
