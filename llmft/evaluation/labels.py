"""Answers that are labels: how a model is asked for them, and how its answers are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llmft.errors import InputError
from llmft.evaluation.answers import Answers
from llmft.evaluation.metrics import more_metrics
from llmft.evaluation.scores import Headline, Scores
from llmft.prompts.verbalizer import check_border, label_sequences, shown

if TYPE_CHECKING:
    import torch

    from llmft.arguments.config import Config
    from llmft.models.reading.continuations import Continued, LabelSequences
    from llmft.prompts.prompter import Prompter
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.schema import Row, Task

BORDER = 3
"""Number of tokens shown from the end of a query."""


@dataclass(frozen=True)
class Labels(Answers):
    """One of L labels, the same for all rows. A label's score is the log-probability of its tokens after the query.

    Columns in addition to those of all `Scores`: `label_logprobs` (N, L), log-probabilities over the labels alone, calibrated if
    requested; `token_logprobs` (N, L), those of the labels' tokens over the vocabulary; `best_token` (N,), the most probable
    token of the vocabulary. `target` and `prediction` are numbers of labels.

    Attributes:
        sequences: each label's tokens, nearly always one; a classifier's are 0 to L - 1, its whole vocabulary.
        calibrate: whether the labels' prior after the same context is divided out.
        border: the tokens around the border of query and label, for display; "" for a classifier.
    """

    supports: ClassVar[tuple[str, ...]] = ("labels", "labels_rest", "topk", "vocab")
    headline: ClassVar[Headline] = Headline("score_accuracy", higher_is_better=True)

    sequences: LabelSequences
    calibrate: bool = False
    border: str = ""

    @classmethod
    def create(
        cls,
        model: torch.nn.Module,
        prompter: Prompter,
        sample: Row,
        *,
        task: Task | None = None,
        config: Config | None = None,
        calibrate: bool = False,
    ) -> Labels:
        """The labels' tokens after the query of `sample`.

        Args:
            config: says whether a label may have several tokens; None for no.

        Raises:
            InputError: a label word is not a single token there, or the model is a classifier with another number of labels.
        """
        from llmft.models.parts.head import classification_head
        from llmft.models.reading.continuations import LabelSequences

        head, prompt_format = classification_head(model), prompter.prompt_format
        words = prompt_format.words
        if head is not None:
            if len(head.label_names) != len(words):
                names = ", ".join(head.label_names)
                raise InputError(
                    f"--model_name_or_path: is a classifier of the labels {names}, but the task has {len(words)} labels"
                )
            names = [] if task is None else [*task.label_names]
            if head.label_names != names and sorted(head.label_names) == sorted(names):
                raise InputError(
                    f"--model_name_or_path: is a classifier of {', '.join(head.label_names)}, in this order, but the labels of "
                    f"{task.name} are {', '.join(names)}; number the labels in the classifier's order, and name them so"
                )
            return cls(LabelSequences.create([[i] for i in range(len(words))]), calibrate)
        control, written = prompter.written([sample])
        query, tokenizer = written.query(sample).rstrip(" "), prompter.tokenizer  # upstream's own may end in a space
        flag, space, several = (
            prompt_format.words_flag,
            prompt_format.space,
            config is not None and config.data.multi_token_labels,
        )
        sequences = label_sequences(tokenizer, query, words, flag, several=several, space=space, control=control)
        labels = " / ".join(shown(tokenizer, tokens) for tokens in sequences)
        border = f"...{shown(tokenizer, control.encode([query])[0][-BORDER:])} | {labels}"
        return cls(LabelSequences.create(sequences), calibrate, border)

    @classmethod
    def headline_of(cls, task: Task) -> Headline:
        """The same for all tasks."""
        return cls.headline

    @property
    def ids(self) -> list[int]:
        """The token of each label; for labels of several tokens, their indices in the result of `compared`."""
        return [*range(len(self.sequences.sequences))] if self.behind else [token for (token,) in self.sequences.sequences]

    @property
    def behind(self) -> int:
        """Number of an answer's tokens that the model reads after the query."""
        return max(map(len, self.sequences.sequences)) - 1

    def check(self, prompter: Prompter, rows: Sequence[Row]) -> None:
        """Check that labels without a space are separate tokens after all rows' queries.

        Raises:
            InputError: one merges with a query's end.
        """
        prompt_format = prompter.prompt_format
        if prompt_format.space or not self.border:  # nothing merges after a space, and a classifier writes no labels
            return
        rows = [*rows, *prompter.demonstrations]
        control, written = prompter.written(rows)
        queries, sequences = [*map(written.query, rows)], self.sequences.sequences
        check_border(control, queries, prompt_format.words, sequences, prompt_format.end_flag, space="")

    def content_free(self, prompter: Prompter) -> list[Row]:
        """Rows that are asked about after all others, for calibration; none if nothing is calibrated."""
        return prompter.prompt_format.content_free_rows() if self.calibrate else []

    def continued(self, prompts: TokenizedPrompts, rows: Sequence[Row]) -> Continued:
        """The rows' prompts, each followed by all labels."""
        from llmft.models.reading.continuations import Continued

        return Continued.by_labels(prompts, self.sequences)

    @property
    def key(self) -> dict[str, Any]:
        """The labels' tokens."""
        return self.sequences.key

    @property
    def question(self) -> LabelSequences:
        """The question for a model's scores of the labels."""
        return self.sequences

    def columns(self, rows: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of `Scores` from the answers to the question about N rows, followed by the content-free ones."""
        n, logprobs = len(rows), arrays["label_logprobs"]
        prior = label_prior(logprobs[n:]) if len(logprobs) > n else None
        idx, targets = (np.array([row[name] for row in rows]) for name in ("idx", "label"))
        return _columns(idx, targets, renormalise(logprobs[:n], prior), logprobs[:n], arrays["best_token"][:n])

    def labels(self, answers: Scores | Mapping[str, torch.Tensor], log_prior: torch.Tensor | None = None) -> torch.Tensor:
        """(N, L) float32, the column `label_logprobs`: from scores, or from what the question has kept of N prompts, without
        waiting for its device."""
        import torch

        if isinstance(answers, Scores):
            return torch.from_numpy(answers["label_logprobs"]).float()
        logprobs = self.sequences.sums(answers["token_logprobs"]).double()
        return (logprobs if log_prior is None else logprobs - log_prior).log_softmax(-1).float()

    def log_prior(self, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(L,) float64, the log of `label_prior`, from what the question has kept of the content-free prompts."""
        return self.sequences.sums(kept["token_logprobs"]).double().softmax(-1).mean(0).log()

    @property
    def branches(self) -> list[tuple[int, ...]]:
        """Token sequences that are read along with every training prompt, for labels of several tokens."""
        return self.sequences.continuations

    def examples(self, prompts: TokenizedPrompts, rows: Sequence[Row], *, gold: bool) -> list[dict[str, Any]]:
        """The rows as training examples: tokens `input_ids`, and the token `answer` of the right label if `gold`."""
        examples: list[dict[str, Any]] = [{"input_ids": prompts.whole(i)} for i in range(len(rows))]
        ids = self.ids
        if gold:
            for example, row in zip(examples, rows, strict=True):
                example["answer"] = ids[row["label"]]
        return examples

    def answered(self, rows: Sequence[Row], logprobs: torch.Tensor) -> list[Row]:
        """The rows with a teacher's labels instead of their own, from its log-probabilities (N, L)."""
        return [{**row, "label": label} for row, label in zip(rows, logprobs.argmax(1).tolist(), strict=True)]

    def compared(self, logits: torch.Tensor) -> torch.Tensor:
        """What is compared with a teacher's answers: a student's logits (P, V), or for labels of several tokens their
        log-probabilities (B, L)."""
        return self.sequences.logprobs(logits) if self.behind else logits

    def mean(self, scores: Sequence[Scores]) -> dict[str, np.ndarray]:
        """Columns of the mean over contexts of the distributions after each; `best_token` is the one that most of them rank
        first (on ties the smallest)."""

        def mean(name: str) -> np.ndarray:
            return np.logaddexp.reduce([one[name] for one in scores]) - np.log(len(scores))

        votes = np.stack([one["best_token"] for one in scores])
        best = np.array([np.bincount(column).argmax() for column in votes.T])
        return _columns(scores[0]["idx"], scores[0]["target"], mean("label_logprobs"), mean("token_logprobs"), best)

    def metrics(self, scores: Scores, names: Sequence[str] = ()) -> dict[str, Any]:
        """`accuracy`, `score_accuracy`, `loss`, `ece`, `n`, `n_asked`, `n_shortened`, and those of `names`.

        `score_accuracy` takes the argmax over the labels (Mosbach et al. 2023, section 3); `accuracy` counts an answer only if
        the label's token is the argmax over the whole vocabulary, None for labels of several tokens; `loss` is the mean
        negative log-probability (nats) of the right label's token over the vocabulary; `ece` is the expected calibration error
        of the label probabilities (15 bins).

        Args:
            names: metrics of `llmft.evaluation.metrics`, by name or file, of the argmax over the labels.

        Raises:
            InputError: a metric fails.
        """
        n, targets = len(scores), scores["target"]
        metrics = {
            "accuracy": None if self.behind else float(np.mean(scores["best_token"] == np.array(self.ids)[targets])),
            "score_accuracy": float(np.mean(scores["score"])),
            "loss": float(-np.mean(scores["token_logprobs"][np.arange(n), targets])),
            "ece": expected_calibration_error(np.exp(scores["label_logprobs"]), targets),
            "n": n,
            "n_asked": n,
            "n_shortened": scores.shortened,
        }
        return more_metrics(names, "label", scores["prediction"], targets, metrics)

    def divergence(self, teacher: Scores, student: Scores) -> dict[str, float]:
        """`kl`, mean KL(teacher || student) over the labels in nats; `agreement`, share of the rows with the same answer from
        both."""
        p, q = teacher["label_logprobs"], student["label_logprobs"]
        return {
            "kl": float(np.mean(np.sum(np.exp(p) * (p - q), axis=1))),
            "agreement": float(np.mean(teacher["prediction"] == student["prediction"])),
        }

    @staticmethod
    def majority(rows: Sequence[Row]) -> float:
        """Accuracy of always answering the most frequent right label."""
        return max(Counter(row["label"] for row in rows).values()) / len(rows)


def _columns(
    idx: np.ndarray, targets: np.ndarray, label_logprobs: np.ndarray, token_logprobs: np.ndarray, best_token: np.ndarray
) -> dict[str, np.ndarray]:
    predictions = label_logprobs.argmax(axis=1)
    return {
        "idx": idx,
        "target": targets,
        "prediction": predictions,
        "score": (predictions == targets).astype(float),
        "label_logprobs": label_logprobs,
        "token_logprobs": token_logprobs,
        "best_token": best_token,
    }


def renormalise(logprobs: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
    """Log-probabilities (N, L) over the labels alone.

    Args:
        logprobs: (N, L) log-probabilities of the label tokens.
        prior: (L,) label probabilities that content-free queries get after the same context; divided out if given (contextual
            calibration with a diagonal matrix, Zhao et al. 2021, arXiv:2102.09690, section 5).
    """
    scores = logprobs if prior is None else logprobs - np.log(prior)
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def label_prior(content_free_logprobs: np.ndarray) -> np.ndarray:
    """Mean label probabilities (L,) over content-free queries (M, L), each normalised over the labels."""
    return np.exp(renormalise(content_free_logprobs)).mean(axis=0)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, 0 to 1 (Guo et al. 2017, arXiv:1706.04599, eq. 3; 15 bins as there).

    Confidence is the largest label probability, and the prediction is its label (the first on ties). Bin m of M equal-width
    bins holds confidences in ((m - 1) / M, m / M]; a bin is weighted by its share of the N examples.

    Args:
        probabilities: (N, L) of the labels, N at least 1; each row adds up to 1.
        labels: (N,) the right labels.
        bins: M, 1 or more.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    borders = np.arange(1, bins) / bins  # between the bins; rounding errors above 1 stay in the last one
    which = np.digitize(confidence, borders, right=True)
    gaps = np.bincount(which, weights=right - confidence)  # (used bins,) |B_m| (acc(B_m) - conf(B_m))
    return float(np.abs(gaps).sum() / len(labels))
