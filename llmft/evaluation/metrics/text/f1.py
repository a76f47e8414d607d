"""F1 of words, as SQuAD counts it."""

from collections import Counter

from llmft.evaluation.metrics.text_metric import WordMetric


class TokenF1(WordMetric):
    """F1 of the words that prediction and answer share by SQuAD's rules, each counted as often as both have it.

    0 if they share none. If SQuAD's rules leave nothing of the answer, it is `exact_match`; in SQuAD's script it is 0.
    """

    key = "f1"

    def score_words(self, predicted: tuple[str, ...], accepted: tuple[str, ...]) -> float:
        """F1, the harmonic mean of the shares of the prediction's and of the answer's words."""
        shared = (Counter(predicted) & Counter(accepted)).total()
        return 2 * shared / (len(predicted) + len(accepted)) if shared else 0.0
