"""F1 of label 1, GLUE's measure of QQP."""

import numpy as np
from sklearn.metrics import f1_score

from llmft.evaluation.metrics.label_metric import LabelMetric


class F1(LabelMetric):
    """F1 of label 1; 0 if no row has it and none is predicted to have it."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"f1": float(f1_score(np.asarray(references), np.asarray(predictions), pos_label=1, zero_division=0))}
