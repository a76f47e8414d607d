"""Which rules of an instruction answers keep."""

from collections.abc import Sequence

import numpy as np

from llmft.evaluation.metrics.text_metric import TextMetric
from llmft.tasks.rules import Rule


class RulesKept(TextMetric):
    """`rules`, the share of answers that keep all rules which hold for them, and `rule_<name>` for each rule the share of those
    answers for which it holds that keep it."""

    key = "rules"

    def score(self, prediction: str, reference: str) -> float:
        """1 where a prediction keeps a rule, else 0."""
        return float(Rule.from_text(reference).kept(prediction))

    def row_score(self, prediction: str, accepted: Sequence[str]) -> float:
        """1 where a prediction keeps all of its rules, else 0."""
        return min(self.score(prediction, rule) for rule in accepted)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        kept: dict[str, list[float]] = {}
        for prediction, rules in zip(predictions, references, strict=True):
            for rule in rules:
                kept.setdefault(f"rule_{Rule.from_text(rule).name}", []).append(self.score(prediction, rule))
        return super()._compute(predictions, references) | {name: float(np.mean(shares)) for name, shares in kept.items()}
