"""The kinds of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmft.evaluation.answers import Answers
from llmft.evaluation.labels import Labels
from llmft.evaluation.ruled import Ruled
from llmft.evaluation.texts import Texts

if TYPE_CHECKING:
    from llmft.tasks.schema import Task

ANSWERS: dict[str, type[Answers]] = {"label": Labels, "text": Texts}
"""`answer` of a task -> the kind of its answers."""


def answers_of(task: Task) -> type[Answers]:
    """The kind of a task's answers; words are judged by rules if the task has some."""
    return Ruled if task.rules else ANSWERS[task.answer]
