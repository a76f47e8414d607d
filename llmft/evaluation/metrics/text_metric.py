"""What metrics of answers in words share: the best accepted answer counts, rows count alike; words are SQuAD's, identifiers
Python's."""

import keyword
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import datasets
import evaluate
import numpy as np

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
KEYWORDS = frozenset(keyword.kwlist) - {"True", "False"}
"""Words of Python that are no identifiers; CrossCodeEval counts True and False as such."""
NO_CODE = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|#.*""")
"""A string or a comment."""
ARTICLE = re.compile(r"\b(?:a|an|the)\b")


class TextMetric(evaluate.Metric, ABC):
    """A metric that scores rows from 0 to 1, and a set by their mean.

    Attributes:
        key: what its value is called.
    """

    key: ClassVar[str]

    @abstractmethod
    def score(self, prediction: str, reference: str) -> float:
        """What a prediction is worth by one accepted answer, from 0 to 1."""

    def row_score(self, prediction: str, accepted: Sequence[str]) -> float:
        """What a prediction is worth by the best of its row's accepted answers, from 0 to 1.

        Raises:
            ValueError: there is no accepted answer.
        """
        return float(max(self.score(prediction, answer) for answer in accepted))

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features({"predictions": text, "references": datasets.List(text)}),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {self.key: float(np.mean([*map(self.row_score, predictions, references)]))}


@lru_cache(maxsize=64)  # a row's texts are asked for by one metric after the other
def squad_words(text: str) -> tuple[str, ...]:
    """The words of a text by the rules of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1).

    The text is put in lower case; ASCII punctuation goes without a trace ("3.5" is "35"), as do the words a, an and the; what
    white space divides are words.
    """
    return tuple(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


@lru_cache(maxsize=64)
def identifiers(code: str) -> tuple[str, ...]:
    """The identifiers of a piece of Python in their order, whether it can be parsed or not; as in CrossCodeEval words that are no
    keyword, outside of strings and comments."""
    words = re.findall(r"\w+", NO_CODE.sub("", code))
    return tuple(word for word in words if re.match("[_a-zA-Z]", word) and word not in KEYWORDS)
