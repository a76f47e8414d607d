"""Base of metrics of labels: predictions and references are numbers."""

from abc import ABC, abstractmethod

import datasets
import evaluate


class LabelMetric(evaluate.Metric, ABC):
    """A metric of predicted and right labels."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=self.__doc__, citation="", features=datasets.Features({"predictions": number, "references": number})
        )

    @abstractmethod
    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        """The metric's values by name."""
