"""Whether what a model wrote contains the answer."""

import re

from llmft.evaluation.metrics.text_metric import TextMetric, squad_words


class Contains(TextMetric):
    """1 if the prediction contains the answer's words one right after the other, by SQuAD's rules; else 0.

    Whole words: "I do not know" does not contain "no", nor "17 km" "7". SQuAD's rules leave nothing of answers such as "A" or
        "%": these must stand in the prediction as they are. Only a prediction without words contains an empty answer.
    """

    key = "contains"

    def score(self, prediction: str, reference: str) -> float:
        """1 or 0."""
        predicted, accepted = (f" {' '.join(squad_words(text))} " for text in (prediction, reference))
        if accepted.strip():
            return accepted in predicted
        as_it_is = re.sub(r"(^\b|\b$)", r"\\b", re.escape(reference.strip()))
        return bool(re.search(as_it_is, prediction)) if as_it_is else not predicted.strip()
