"""Exact match, as SQuAD counts it."""

from llmft.evaluation.metrics.text_metric import TextMetric, squad_words


class ExactMatch(TextMetric):
    """1 if prediction and answer have the same words in the same order, by SQuAD's rules; else 0."""

    key = "exact_match"

    def score(self, prediction: str, reference: str) -> float:
        """1 or 0."""
        return squad_words(prediction) == squad_words(reference)
