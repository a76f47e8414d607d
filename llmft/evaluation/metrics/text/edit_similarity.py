"""Edit similarity of characters, by the package rapidfuzz."""

from rapidfuzz.distance import Indel

from llmft.evaluation.metrics.text_metric import TextMetric


class EditSimilarity(TextMetric):
    """1 - d / (m + n) for texts of m and n characters without the white space around them, nothing else being normalised.

    d is the number of characters to insert or delete, a replacement being one of each. This is the edit similarity (ES) of
    RepoBench and CrossCodeEval, which both take `fuzz.ratio`, here not rounded and from 0 to 1. RepoEval's, 1 - d' / max(m, n)
    with replacements as one edit, is another. 1 where both texts are empty.
    """

    key = "edit_similarity"

    def score(self, prediction: str, reference: str) -> float:
        """The similarity."""
        return Indel.normalized_similarity(prediction.strip(), reference.strip())
