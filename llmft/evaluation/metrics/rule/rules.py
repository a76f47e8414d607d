"""Which rules of an instruction the answers follow."""

from collections.abc import Sequence

import numpy as np

from llmft.evaluation.metrics.text_metric import TextMetric
from llmft.tasks.rules import Rule


class RulesKept(TextMetric):
    """`rules`, the share of answers that follow all rules that apply to them, and for each rule `rule_<name>`, the share of
    answers that follow it among those it applies to."""

    key = "rules"

    def score(self, prediction: str, reference: str) -> float:
        """1 if a prediction follows a rule, else 0."""
        return float(Rule.from_text(reference).kept(prediction))

    def row_score(self, prediction: str, accepted: Sequence[str]) -> float:
        """1 if a prediction follows all of its rules, else 0."""
        return min(self.score(prediction, rule) for rule in accepted)

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        kept: dict[str, list[float]] = {}
        for prediction, rules in zip(predictions, references, strict=True):
            for rule in rules:
                kept.setdefault(f"rule_{Rule.from_text(rule).name}", []).append(self.score(prediction, rule))
        return super()._compute(predictions, references) | {name: float(np.mean(shares)) for name, shares in kept.items()}
