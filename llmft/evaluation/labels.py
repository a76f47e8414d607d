"""Labels as answers: what a model's label probabilities say, and how they are judged. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmft.evaluation.calibration import expected_calibration_error
from llmft.evaluation.metrics import compute_metric

if TYPE_CHECKING:
    from llmft.evaluation.scorer import SplitScores


class Headline(NamedTuple):
    """The metric that a kind of answer is judged by."""

    name: str
    higher_is_better: bool


HEADLINE = Headline("score_accuracy", True)


def majority(labels: Sequence[int] | np.ndarray) -> float:
    """Accuracy of always answering the most frequent of some labels (N,), N > 0."""
    return float(np.unique(np.asarray(labels), return_counts=True)[1].max() / len(labels))


def split_metrics(scores: SplitScores) -> dict[str, float | int]:
    """`accuracy`, `score_accuracy`, `loss`, `ece`, `n`, `n_asked`, `n_shortened` and the task's own metrics of a labelled split.

    `score_accuracy` takes the argmax over the labels (Mosbach et al. 2023, section 3); `accuracy` counts an answer only
    where the label's token is the argmax over the whole vocabulary; `loss` is the mean negative log-probability (nats) of
    the right label's token over the vocabulary; `ece` is the expected calibration error of the label probabilities (15 bins).
    The task's own (`scores.task_metrics`, by `llmft.evaluation.metrics`) are of the argmax over the labels; where one gives a
    number under a name that is taken, the metric's name goes in front.

    Raises:
        InputError: a metric fails.
    """
    rows = np.arange(len(scores.labels))
    answers = np.asarray(scores.label_ids)[scores.labels]
    metrics = {
        "accuracy": None if scores.several_tokens else float(np.mean(scores.best_token == answers)),
        "score_accuracy": float(np.mean(scores.predictions == scores.labels)),
        "loss": float(-np.mean(scores.token_logprobs[rows, scores.labels])),
        "ece": expected_calibration_error(np.exp(scores.label_logprobs), scores.labels),
        "n": len(rows),
        "n_asked": len(rows),
        "n_shortened": scores.shortened,
    }
    for metric in scores.task_metrics:
        for name, value in compute_metric(metric, scores.predictions, scores.labels).items():
            metrics[f"{Path(metric).stem}_{name}" if name in metrics else name] = value
    return metrics


def renormalise(logprobs: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
    """Log-probabilities (N, L) over the labels alone.

    Args:
        logprobs: (N, L) log-probabilities of the label tokens.
        prior: (L,) label probabilities that content-free queries get behind the same context; divided out where given
            (contextual calibration with a diagonal matrix, Zhao et al. 2021, arXiv:2102.09690, section 5).
    """
    scores = logprobs if prior is None else logprobs - np.log(prior)
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def label_prior(content_free_logprobs: np.ndarray) -> np.ndarray:
    """Mean label probabilities (L,) over content-free queries (M, L), each normalised over the labels."""
    return np.exp(renormalise(content_free_logprobs)).mean(axis=0)


def mean_kl(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean KL(teacher || student) in nats between label log-probabilities (N, L) and (N, L)."""
    return float(np.mean(np.sum(np.exp(teacher) * (teacher - student), axis=1)))


def agreement(teacher: np.ndarray, student: np.ndarray) -> float:
    """Share of queries that teacher and student, both (N, L), answer alike."""
    return float(np.mean(teacher.argmax(axis=1) == student.argmax(axis=1)))


def gap_recovered(teacher: float, before: float, after: float) -> float | None:
    """Share of the accuracy gap between student and teacher that training closed; None where there was no gap to close."""
    return (after - before) / (teacher - before) if teacher > before else None
