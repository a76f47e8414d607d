"""F1 of identifiers, as CrossCodeEval counts it."""

from llmft.evaluation.metrics.text_metric import TextMetric, identifiers


class IdentifierF1(TextMetric):
    """F1 of the identifiers that prediction and answer share, each counted once; identifiers as in `identifier_match`.

    The identifier F1 of CrossCodeEval (Ding et al. 2023, arXiv:2310.11248). 0 if neither has any.
    """

    key = "identifier_f1"

    def score(self, prediction: str, reference: str) -> float:
        """F1, the harmonic mean of the shares of the prediction's and of the answer's identifiers."""
        predicted, accepted = set(identifiers(prediction)), set(identifiers(reference))
        both = len(predicted) + len(accepted)
        return 2 * len(predicted & accepted) / both if both else 0.0
