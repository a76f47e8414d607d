"""Whether what a model wrote contains the answer."""

from llmft.evaluation.metrics.text_metric import TextMetric, squad_words


class Contains(TextMetric):
    """1 if the prediction contains the answer's words one right after the other, by SQuAD's rules; else 0.

    Whole words: "I do not know" does not contain "no", nor "17 km" "7". A prediction without words contains an answer without
        any.
    """

    key = "contains"

    def score(self, prediction: str, reference: str) -> float:
        """1 or 0."""
        predicted, accepted = (f" {' '.join(squad_words(text))} " for text in (prediction, reference))
        return accepted in predicted
