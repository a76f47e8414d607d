"""Which kinds of answers there are."""

from __future__ import annotations

from llmft.evaluation.answers import Answers
from llmft.evaluation.labels import Labels
from llmft.evaluation.texts import Texts

ANSWERS: dict[str, type[Answers]] = {"label": Labels, "text": Texts}
"""`answer` of a task -> the kind of its answers."""
