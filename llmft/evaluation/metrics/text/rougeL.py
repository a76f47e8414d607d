"""ROUGE-L, by the package rouge-score."""

from rouge_score.rouge_scorer import RougeScorer

from llmft.evaluation.metrics.text_metric import TextMetric


class RougeL(TextMetric):
    """F-measure of the longest common subsequence of words (Lin 2004), without stemming.

    Words are those of the package rouge-score and of the library's metric `rouge`: runs of a to z and 0 to 9 in lower case. All
    other letters separate words, so texts in other scripts have none, and a text without words scores 0.
    """

    key = "rougeL"
    scorer = RougeScorer(["rougeL"], use_stemmer=False)

    def score(self, prediction: str, reference: str) -> float:
        """The F-measure."""
        return self.scorer.score(reference, prediction)["rougeL"].fmeasure
