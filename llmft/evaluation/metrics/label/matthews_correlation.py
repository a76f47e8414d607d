"""Matthews' correlation, GLUE's measure of CoLA."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import matthews_corrcoef


class MatthewsCorrelation(evaluate.Metric):
    """Matthews' correlation, from -1 to 1; 0 where all predictions and right answers are the same."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        if len({*predictions, *references}) == 1:  # scikit-learn gives 0 as well, and a warning
            return {"matthews_correlation": 0.0}
        return {"matthews_correlation": float(matthews_corrcoef(np.asarray(references), np.asarray(predictions)))}
