"""Text answers that are judged by rules a program can check, instead of being compared with right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmft.evaluation.answers import Asking
from llmft.evaluation.metrics import load_metric
from llmft.evaluation.scores import Scores, mean_of_known, of_objects
from llmft.evaluation.texts import Texts
from llmft.tasks.rules import COLUMN, Rule

if TYPE_CHECKING:
    import torch

    from llmft.prompts.prompter import Prompter
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.schema import Row, Task


@dataclass(frozen=True)
class Ruled(Texts):
    """Words that a model writes, judged by rules: `rules` is 1 if an answer follows all that apply to its row.

    Columns are those of `Texts`, without those that compare with a right answer; `target` names the row's rules, and
    `rule_<name>` is 1 if the answer follows that rule, 0 if it does not, None if it does not apply to the row.

    Attributes:
        rules: all rules of the task.
    """

    rules: tuple[Rule, ...] = ()

    @classmethod
    def create(cls, model: torch.nn.Module, prompter: Prompter, sample: Row, *, task: Task, **options: Any) -> Self:
        """As `Texts.create`, with the task's rules."""
        return replace(super().create(model, prompter, sample, task=task, **options), rules=task.rules)

    def as_scored(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows without answers: scores do not use right answers."""
        return [{**row, "answer": (), "answer_ids": None} for row in rows]

    def _read_answers(self, asking: Asking, prompts: TokenizedPrompts, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Nothing: there are no right answers."""
        return {}

    def _judged(self, rows: Sequence[Row], predictions: Sequence[str], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns that judge the answers: which rules they follow."""
        metric, pairs = load_metric("rules", "rule"), [*zip(rows, predictions, strict=True)]
        of_rules = {
            f"rule_{rule.name}": [metric.score(text, rule.as_text()) if rule.name in row[COLUMN] else None for row, text in pairs]
            for rule in self.rules
        }
        of_rows = zip(*of_rules.values(), strict=True)
        kept = np.array([min(score for score in scores if score is not None) for scores in of_rows])
        columns = {"target": of_objects([", ".join(row[COLUMN]) for row in rows]), "score": kept, "rules": kept}
        return columns | {name: of_objects(scores) for name, scores in of_rules.items()}

    def metrics(self, scores: Scores, names: Sequence[str] = ()) -> dict[str, Any]:
        """`rules`; `rule_<name>`, the share of answers that follow a rule among those it applies to, and `n_rule_<name>`, how
        many these are; `tokens` (mean per answer), `n`, `n_asked`, `n_shortened`."""
        names = [f"rule_{rule.name}" for rule in self.rules]
        return {
            "rules": float(np.mean(scores["rules"])),
            **{key: value for name in names for key, value in mean_of_known(name, scores[name]).items()},
            "tokens": float(np.mean(scores["tokens"])),
            "n": len(scores),
            "n_asked": len(scores),
            "n_shortened": scores.shortened,
        }
