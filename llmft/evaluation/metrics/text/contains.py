"""Whether the answer stands in what a model wrote."""

from llmft.evaluation.metrics.text_metric import TextMetric, squad_words


class Contains(TextMetric):
    """1 where the answer's words stand in the prediction one behind the other, by SQuAD's rules; else 0.

    Whole words: "no" does not stand in "I do not know", nor "7" in "17 km". An answer of no words stands in a prediction of none.
    """

    key = "contains"

    def score(self, prediction: str, reference: str) -> float:
        """1 or 0."""
        predicted, accepted = (f" {' '.join(squad_words(text))} " for text in (prediction, reference))
        return accepted in predicted
