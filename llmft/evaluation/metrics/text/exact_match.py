"""Exact match, as SQuAD counts it."""

from llmft.evaluation.metrics.text_metric import WordMetric


class ExactMatch(WordMetric):
    """1 if prediction and answer have the same words in the same order, by SQuAD's rules; else 0.

    SQuAD's rules leave nothing of answers such as "A" or "%": with these the texts must be the same, except for case and
    punctuation around them.
    """

    key = "exact_match"

    def score_words(self, predicted: tuple[str, ...], accepted: tuple[str, ...]) -> float:
        """1 or 0."""
        return predicted == accepted
