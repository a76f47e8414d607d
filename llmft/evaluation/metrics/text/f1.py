"""F1 of words, as SQuAD counts it."""

from collections import Counter

from llmft.evaluation.metrics.text_metric import TextMetric, squad_words


class TokenF1(TextMetric):
    """F1 of the words that prediction and answer share by SQuAD's rules, each counted as often as both have it.

    0 if they share none; as in version 1.1 of SQuAD's script, also if neither has any, although that is an exact match.
    """

    key = "f1"

    def score(self, prediction: str, reference: str) -> float:
        """F1, the harmonic mean of the shares of the prediction's and of the answer's words."""
        predicted, accepted = squad_words(prediction), squad_words(reference)
        shared = (Counter(predicted) & Counter(accepted)).total()
        return 2 * shared / (len(predicted) + len(accepted)) if shared else 0.0
