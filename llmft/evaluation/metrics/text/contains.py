"""Whether what a model wrote contains the answer."""

import re

from llmft.evaluation.metrics.text_metric import WordMetric


class Contains(WordMetric):
    """1 if the prediction contains the answer's words one right after the other, by SQuAD's rules; else 0.

    Whole words: "I do not know" does not contain "no", nor "17 km" "7". SQuAD's rules leave nothing of answers such as "A" or
    "%": these must stand in the prediction as they are, or be all of it. Only an empty prediction contains an empty answer.
    """

    key = "contains"

    def score_words(self, predicted: tuple[str, ...], accepted: tuple[str, ...]) -> float:
        """1 or 0."""
        return f" {' '.join(accepted)} " in f" {' '.join(predicted)} "

    def score_texts(self, prediction: str, reference: str) -> float:
        """1 or 0."""
        as_it_is = re.sub(r"(^\b|\b$)", r"\\b", re.escape(reference.strip()))
        return bool(as_it_is and re.search(as_it_is, prediction)) or super().score_texts(prediction, reference)
