"""The interface of a kind of answers, which is all that scorer, teacher and trainers know of it. `kinds` lists the kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
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
"""Key of a training example that ends in a text: the number of its last tokens at which the next one is predicted."""


class Question(Protocol):
    """What is asked of a model at the positions of its answers, and which part of its output there is kept."""

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the question in the cache of answers, JSON-able."""
        raise ValueError(f"{type(self).__name__}: its answers are not cached, as no other run asks for them")

    def keep(self, logits: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is kept of logits (p, V) at these positions (p,) of all."""

    def answers(self, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The answers, from what was kept at all positions; by default the same."""
        return dict(kept)


class Asking(Protocol):
    """A model that is asked several things after one prefix, which it reads once."""

    def read(self, prompts: Continued, question: Question, *, rows: int) -> dict[str, np.ndarray]:
        """The model's answers to a question about each of the prompts.

        Args:
            rows: how many of the prompts are examples; those after them are content-free queries.
        """

    def write(self, prompts: TokenizedPrompts, *, rows: int = 0) -> list[list[int]]:
        """The tokens that the model writes after each of the prompts, generated as this kind of answers requires.

        Args:
            rows: how many of the prompts count as examples.
        """

    def aside(self) -> AbstractContextManager[Self]:
        """Context: the same, for what judges answers but is no part of what a query costs."""


class Reference(Protocol):
    """A teacher's answers to rows and its distributions along them, with which those of other models are compared.

    Attributes:
        rows: each with its answer's tokens `answer_ids`.
    """

    rows: Sequence[Row]

    def of(self, places: Sequence[int]) -> Reference:
        """The reference for only the rows at these places."""

    @property
    def question(self) -> Question:
        """The question for `kl` (P,), a model's divergence from the teacher at each token of the teacher's answers, in nats."""


class Answers(Protocol):
    """Answers of one kind, for one way of making prompts. Defaults are for features that most kinds lack. Kinds: `Labels`,
    `Texts`."""

    in_words: ClassVar[bool] = False
    """Whether a model writes them, so that rows have no common classes."""
    supports: ClassVar[Sequence[str]]
    """Possible supports of the distributions of teacher and student (`objective.SUPPORTS`)."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of flags that differ from the usual ones, those of labels."""
    headline: Headline
    generation: Generation
    """How they are generated, for kinds that are."""
    border: str = ""
    """The tokens around the border of query and answer, for display; "" if there is nothing to show."""

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
        """Answers of this kind after this model's prompts, given the prompt of a sample; an InputError if they do not fit
        together."""

    @staticmethod
    def headline_of(task: Task) -> Headline:
        """The main metric of answers to a task's questions."""

    @property
    def behind(self) -> int:
        """The maximum number of an answer's tokens that the model reads after the query."""

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the classes that all rows share, JSON-able; {} if they share none."""
        return {}

    @property
    def question(self) -> Question:
        """The question about the classes that all rows share; not used if there are none."""

    def check(self, prompter: Prompter, rows: Sequence[Row]) -> None:
        """Check that answers can follow the rows' queries; an InputError if not."""

    def as_scored(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Evaluation rows with only those right answers that scores use."""
        return rows

    def check_stops(self, rows: Sequence[Row]) -> None:
        """Check that nothing ends right answers to evaluation rows early: an InputError if all end so, a note if some do."""

    def content_free(self, prompter: Prompter) -> list[Row]:
        """Rows that are read after all others, which `columns` uses for calibration."""
        return []

    def continued(self, prompts: TokenizedPrompts, rows: Sequence[Row]) -> Continued:
        """The rows' prompts, and what the model reads after each."""

    def ask(
        self, asking: Asking, prompts: TokenizedPrompts, rows: Sequence[Row], reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """A model's answers to the rows, given their prompts and those of the `content_free` rows."""
        return asking.read(self.continued(prompts, rows), self.question, rows=len(rows))

    def columns(self, rows: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of `Scores` from the result of `ask`."""

    def sizes(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) the number of positions at which a teacher's distributions are taken for each row: one for classes that all
        share."""
        import numpy as np

        return np.ones(len(rows), int)

    def written(self, ids: Sequence[int]) -> str:
        """The text of an answer that a model has written, for display and metrics; for kinds that are generated."""

    def labels(self, answers: Scores | Mapping[str, torch.Tensor], log_prior: torch.Tensor | None = None) -> torch.Tensor:
        """A teacher's answers on the support `labels`, the classes that all rows share; not used if there are no `ids`.

        Args:
            answers: scores, or what the question has kept of prompts.
            log_prior: the log-prior from the `content_free` prompts, if there are any.
        """

    def log_prior(self, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The prior with which `labels` calibrates, from what the question has kept of the `content_free` prompts."""

    @property
    def ids(self) -> Sequence[int]:
        """The indices of those classes in the result of `compared`; none if rows share no classes."""
        return ()

    @property
    def branches(self) -> Sequence[Sequence[int]]:
        """Token sequences that are read along with every training prompt."""
        return ()

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end a written answer, besides end tokens."""
        return ()

    def ending_as(self, other: Self) -> Self:
        """The same, but a written answer also ends with whatever ends those of `other`."""
        return self

    def examples(self, prompts: TokenizedPrompts, rows: Sequence[Row], *, gold: bool) -> list[dict[str, Any]]:
        """The rows as training examples (`FtTrainer`), with their right answers if `gold`."""

    def answered(self, rows: Sequence[Row], logprobs: torch.Tensor) -> list[Row]:
        """The rows with a teacher's answers instead of their own."""

    def compared(self, logits: torch.Tensor) -> torch.Tensor:
        """The part of a student's logits (P, V) that is compared with a teacher's answers."""
        return logits

    def mean(self, scores: Sequence[Scores]) -> dict[str, np.ndarray]:
        """Columns of the mean over several contexts of the same rows' answers."""

    def metrics(self, scores: Scores, names: Sequence[str] = ()) -> dict[str, Any]:
        """The headline, this kind's other metrics, and the metrics of these names or files."""

    def divergence(self, teacher: Scores, student: Scores) -> dict[str, float]:
        """`kl`, the divergence of the student's answers from the teacher's, in nats; `agreement`, the share of rows with the
        same answer."""

    @staticmethod
    def majority(rows: Sequence[Row]) -> float | None:
        """The score of always giving the most frequent right answer; None if that has no meaning."""
        return None
