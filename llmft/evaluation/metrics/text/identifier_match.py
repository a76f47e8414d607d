"""Identifier match, as CrossCodeEval counts it."""

from llmft.evaluation.metrics.text_metric import TextMetric, identifiers


class IdentifierMatch(TextMetric):
    """1 if prediction and answer have the same identifiers in the same order, repetitions included; else 0.

    The identifier exact match of CrossCodeEval (Ding et al. 2023, arXiv:2310.11248): strings, comments and Python's keywords are
    left out. Two texts without identifiers match.
    """

    key = "identifier_match"

    def score(self, prediction: str, reference: str) -> float:
        """1 or 0."""
        return identifiers(prediction) == identifiers(reference)
