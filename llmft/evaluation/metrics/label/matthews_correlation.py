"""Matthews' correlation, GLUE's measure of CoLA."""

import numpy as np
from sklearn.metrics import matthews_corrcoef

from llmft.evaluation.metrics.label_metric import LabelMetric


class MatthewsCorrelation(LabelMetric):
    """Matthews' correlation, from -1 to 1; 0 if all predictions and right answers are the same."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        if len({*predictions, *references}) == 1:  # scikit-learn gives 0 as well, and a warning
            return {"matthews_correlation": 0.0}
        return {"matthews_correlation": float(matthews_corrcoef(np.asarray(references), np.asarray(predictions)))}
