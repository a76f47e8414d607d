"""Exact match of code, as RepoBench counts it."""

from llmft.evaluation.metrics.text_metric import TextMetric


class CodeExactMatch(TextMetric):
    """1 if prediction and answer are the same except for the amount of white space; else 0.

    The pieces between white space must be the same, including case and punctuation: the exact match (EM) of RepoBench (Liu et al.
    2023, arXiv:2306.03091). SQuAD's `exact_match` ignores much of what code consists of.
    """

    key = "code_exact_match"

    def score(self, prediction: str, reference: str) -> float:
        """1 or 0."""
        return prediction.split() == reference.split()
