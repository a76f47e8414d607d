"""Traces of a document in answers that have nothing to do with it, and whether a model says that it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmft.evaluation.metrics.text_metric import squad_words

if TYPE_CHECKING:
    from llmft.evaluation.scores import Scores

NAME = re.compile(r"(?<=[\w,;] )[A-Z]\w+|\b\d{2,}\b")
"""A capitalised word within a sentence, or a number of two digits or more."""
ABSTENTIONS = (
    "not stated", "not mentioned", "not given", "not known", "unknown", "no answer", "unanswerable", "I do not know",
    "I don't know", "cannot be answered",
)  # fmt: skip
"""Texts by which an answer says that there is none. A question whose accepted answer is one of these is unanswerable."""


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """The names and numbers in texts: capitalised words that do not begin a sentence, and numbers of two digits or more."""
    return frozenset(name for text in texts for name in NAME.findall(text))


def contaminating(answer: str, prompt: str, names: frozenset[str]) -> list[str]:
    """The names in an answer that its prompt does not contain."""
    words = set(re.findall(r"\w+", answer)) - set(re.findall(r"\w+", prompt))
    return sorted(words & names)


def abstains(answer: str) -> bool:
    """Whether an answer says, possibly among other things, that there is none."""
    words = " ".join(squad_words(answer.replace("’", "'")))
    return any(f" {' '.join(squad_words(text))} " in f" {words} " for text in ABSTENTIONS)


def unanswerable(accepted: Sequence[str]) -> bool:
    """Whether these accepted answers say that the question is unanswerable."""
    return any(squad_words(accepted[0]) == squad_words(text) for text in ABSTENTIONS)


def abstention(scores: Sequence[Scores]) -> dict[str, float]:
    """`abstention`, the share of unanswerable questions on which a model abstains, and `false_abstention`, the same share of
    the others; each only if there are such questions."""
    with_answers = [one for one in scores if "accepted" in one.columns]
    answers = [answer for one in with_answers for answer in zip(one["accepted"], one["prediction"], strict=True)]
    shares = {}
    for name, kind in (("abstention", True), ("false_abstention", False)):
        predictions = [prediction for accepted, prediction in answers if unanswerable(accepted) == kind]
        if predictions:
            shares[name] = float(np.mean([*map(abstains, predictions)]))
    return shares
