"""Edit similarity of characters, by the package rapidfuzz."""

from rapidfuzz.distance import Indel

from llmft.evaluation.metrics.text_metric import TextMetric


class EditSimilarity(TextMetric):
    """1 - d / (m + n) for texts of m and n characters after stripping white space, without further normalisation.

    d is the number of characters to insert or delete; a replacement is one of each. This is the edit similarity (ES) of
    RepoBench and CrossCodeEval, which both use `fuzz.ratio`, but not rounded and from 0 to 1. RepoEval's differs: 1 - d' /
    max(m, n) with a replacement as one edit. 1 if both texts are empty.
    """

    key = "edit_similarity"

    def score(self, prediction: str, reference: str) -> float:
        """The similarity."""
        return Indel.normalized_similarity(prediction.strip(), reference.strip())
