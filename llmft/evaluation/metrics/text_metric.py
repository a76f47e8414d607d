"""Bases of metrics of text answers: the best accepted answer counts, and all rows count the same; words are SQuAD's, also in
scripts without spaces, identifiers Python's."""

import keyword
import re
import string
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import ClassVar

import datasets
import evaluate
import numpy as np

from llmft.prompts.render import is_unspaced

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
KEYWORDS = frozenset(keyword.kwlist) - {"True", "False"}
"""Python's words that are not identifiers; CrossCodeEval counts True and False as identifiers."""
NO_CODE = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|#.*""")
"""A string or a comment."""
ARTICLE = re.compile(r"\b(?:a|an|the)\b")


class TextMetric(evaluate.Metric, ABC):
    """A metric that scores rows from 0 to 1, and a set by their mean.

    Attributes:
        key: the name of its value.
    """

    key: ClassVar[str]

    @abstractmethod
    def score(self, prediction: str, reference: str) -> float:
        """The score of a prediction against one accepted answer, from 0 to 1."""

    def row_score(self, prediction: str, accepted: Sequence[str]) -> float:
        """The score of a prediction against the best of its row's accepted answers, from 0 to 1.

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


class WordMetric(TextMetric):
    """A metric of words, however Unicode composes their letters; of an answer that has none, such as "A" or "%", a metric of the
    texts as they are."""

    def score(self, prediction: str, reference: str) -> float:
        """The score, from 0 to 1."""
        prediction, reference = (unicodedata.normalize("NFC", text) for text in (prediction, reference))
        accepted = words(reference)
        return self.score_words(words(prediction), accepted) if accepted else self.score_texts(prediction, reference)

    @abstractmethod
    def score_words(self, predicted: tuple[str, ...], accepted: tuple[str, ...]) -> float:
        """The score of the words of a prediction against those of an accepted answer."""

    def score_texts(self, prediction: str, reference: str) -> float:
        """The score of a prediction against an accepted answer without words: 1 if they are the same but for case, and for
        punctuation at the ends unless they consist of it; else 0."""
        same, other = (without_ends(text) or text.strip() for text in (prediction, reference))
        return same.casefold() == other.casefold()


@lru_cache(maxsize=64)  # several metrics ask for the same row's texts
def words(text: str) -> tuple[str, ...]:
    """The words of a text: of texts in ASCII those of SQuAD, `squad_words`.

    Of others, punctuation at the ends is deleted, too, if it is not in ASCII, and in scripts without spaces between words each
    character is a word and wide punctuation separates words, as in MLQA's script for Chinese (Lewis et al. 2020,
    arXiv:1910.07475).
    """
    return squad_words(without_ends(set_apart(text)))


def set_apart(text: str) -> str:
    """A text with spaces around each character of scripts without spaces between words, and for their punctuation."""
    return "".join(map(_set_apart, text))


def without_ends(text: str) -> str:
    """A text without punctuation and white space at its ends."""
    ends = {one for one in text if one.isspace() or one in string.punctuation or unicodedata.category(one).startswith("P")}
    return text.strip("".join(ends)) if ends else text


@cache
def _set_apart(character: str) -> str:
    if is_unspaced(character):
        return f" {character} "
    wide = unicodedata.east_asian_width(character) in ("F", "W")
    return " " if wide and unicodedata.category(character).startswith("P") else character


def squad_words(text: str) -> tuple[str, ...]:
    """The words of a text by the rules of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1).

    The text is lower-cased; ASCII punctuation is deleted ("3.5" becomes "35"), as are the words a, an and the; the rest is
    split at white space.
    """
    return tuple(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


@lru_cache(maxsize=64)
def identifiers(code: str) -> tuple[str, ...]:
    """The identifiers of a piece of Python in order, whether it can be parsed or not: as in CrossCodeEval, all words that are
    not keywords, outside strings and comments."""
    words = re.findall(r"\w+", NO_CODE.sub("", code))
    return tuple(word for word in words if re.match("[_a-zA-Z]", word) and word not in KEYWORDS)
