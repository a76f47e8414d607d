"""F1 of label 1, GLUE's measure of QQP."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import f1_score


class F1(evaluate.Metric):
    """F1 of label 1; 0 where no row has it and none is given it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"f1": float(f1_score(np.asarray(references), np.asarray(predictions), pos_label=1, zero_division=0))}
