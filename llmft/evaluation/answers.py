"""What the rest asks of a kind of answers; scorer, teacher and trainers know no more. `kinds` says which there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmft.arguments.config import Config
    from llmft.evaluation.scores import Headline, Scores
    from llmft.models.reading.continuations import Continued
    from llmft.models.reading.generation import Generation
    from llmft.prompts.prompter import Prompter
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.schema import Row, Task

ASKED = "asked"
"""Key of a training example that ends in a text: at how many of its last tokens the next one is predicted."""


class Question(Protocol):
    """What is asked of a model at the positions of its answers, and kept of what it gives there."""

    @property
    def key(self) -> dict[str, Any]:
        """JSON-able, what the question is identified by."""

    def keep(self, logits: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is kept of logits (p, V) at these positions (p,) of all."""

    def answers(self, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The answers, from what was kept of all positions: that."""
        return dict(kept)


class Asking(Protocol):
    """A model that is asked several things behind one prefix, which it reads once."""

    def read(self, prompts: Continued, question: Question, *, rows: int) -> dict[str, np.ndarray]:
        """The model's answers to a question about each of the prompts.

        Args:
            rows: how many of the prompts are examples; those behind them are content-free queries.
        """

    def write(self, prompts: TokenizedPrompts, *, rows: int = 0) -> list[list[int]]:
        """The tokens of what the model writes behind each of the prompts, as the kind of answers wants it written.

        Args:
            rows: how many of the prompts count as examples.
        """


class Reference(Protocol):
    """A teacher's answers to rows and its distributions along them, which those of others are compared with.

    Attributes:
        rows: each with its answer's tokens `answer_ids`.
    """

    rows: Sequence[Row]

    def of(self, places: Sequence[int]) -> Reference:
        """That of the rows at these places alone."""

    @property
    def question(self) -> Question:
        """The question for `kl` (P,), how far a model is from the teacher at each token of its answers, in nats."""


class Answers(Protocol):
    """Answers of one kind, for one way of making prompts; a kind inherits what most have not. Kinds: `Labels`, `Texts`."""

    in_words: ClassVar[bool] = False
    """Whether a model writes them, and rows share no classes."""
    supports: ClassVar[Sequence[str]]
    """What distributions of teacher and student can be over (`objective.SUPPORTS`)."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of flags that differ from the usual ones, which are those of labels."""
    headline: Headline
    generation: Generation
    """How they are written; of kinds that are."""
    border: str = ""
    """The tokens around the place where a query meets its answer, for people; "" where there is nothing to show."""

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
    ) -> Self:
        """Such answers behind this model's prompts, by the prompt of a sample; an InputError if they do not go together."""

    @staticmethod
    def headline_of(task: Task) -> Headline:
        """What answers to a task's questions are judged by."""

    @property
    def behind(self) -> int:
        """Tokens of an answer that the model reads behind the query, at most."""

    @property
    def key(self) -> dict[str, Any]:
        """JSON-able, what identifies the classes that all rows share; {} where they share none."""
        return {}

    @property
    def question(self) -> Question:
        """The question about the classes that all rows share; not read where there are none."""

    def check(self, prompter: Prompter, rows: Sequence[Row]) -> None:
        """Check that answers can stand behind the rows' queries; an InputError if not."""

    def content_free(self, prompter: Prompter) -> list[Row]:
        """Rows that are read behind all others, for `columns` to calibrate by."""
        return []

    def continued(self, prompts: TokenizedPrompts, rows: Sequence[Row]) -> Continued:
        """The rows' prompts, and what the model reads behind each."""

    def ask(
        self, asking: Asking, prompts: TokenizedPrompts, rows: Sequence[Row], reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """What a model answers to the rows, whose prompts (and those of the `content_free` ones) these are."""
        return asking.read(self.continued(prompts, rows), self.question, rows=len(rows))

    def columns(self, rows: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of `Scores` from what `ask` gives."""

    def sizes(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) positions at which a teacher's distributions of the rows are taken: one for classes that all share."""
        import numpy as np

        return np.ones(len(rows), int)

    def written(self, ids: Sequence[int]) -> str:
        """The text of an answer that a model has written, for people and metrics; of kinds that are written."""

    def labels(self, answers: Scores | Mapping[str, torch.Tensor], log_prior: torch.Tensor | None = None) -> torch.Tensor:
        """A teacher's answers on the support `labels`, the classes that all rows share; not read where there are no `ids`.

        Args:
            answers: scores, or what the question has kept of prompts.
            log_prior: of the `content_free` ones, if there are any.
        """

    def log_prior(self, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What `labels` calibrates by, from what the question has kept of the `content_free` prompts."""

    @property
    def ids(self) -> Sequence[int]:
        """Where those classes are in what `compared` gives; none where rows share no classes."""
        return ()

    @property
    def branches(self) -> Sequence[Sequence[int]]:
        """Token sequences that every training prompt comes with."""
        return ()

    def ending_as(self, other: Self) -> Self:
        """The same, but what is written ends with whatever those others end with, too."""
        return self

    def examples(self, prompts: TokenizedPrompts, rows: Sequence[Row], *, gold: bool) -> list[dict[str, Any]]:
        """The rows as training examples (`FtTrainer`), if `gold` with their right answers."""

    def answered(self, rows: Sequence[Row], logprobs: torch.Tensor) -> list[Row]:
        """The rows with a teacher's answers in place of their own."""

    def compared(self, logits: torch.Tensor) -> torch.Tensor:
        """What of a student's logits (P, V) is compared with a teacher's answers."""
        return logits

    def mean(self, scores: Sequence[Scores]) -> dict[str, np.ndarray]:
        """Columns of the mean of what the same rows got behind several contexts."""

    def metrics(self, scores: Scores, names: Sequence[str] = ()) -> dict[str, Any]:
        """The headline, what else this kind is measured by, and the metrics of these names or files."""

    def divergence(self, teacher: Scores, student: Scores) -> dict[str, float]:
        """`kl`, how far the student's answers are from the teacher's, in nats; `agreement`, the share of rows with the same."""

    @staticmethod
    def majority(rows: Sequence[Row]) -> float | None:
        """What always giving the most frequent right answer to the rows would get; None where that means nothing."""
        return None
