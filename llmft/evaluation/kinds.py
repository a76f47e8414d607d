"""Which kinds of answers there are."""

from __future__ import annotations

from llmft.evaluation.answers import Answers
from llmft.evaluation.labels import Labels

ANSWERS: dict[str, type[Answers]] = {"label": Labels}
"""`answer` of a task -> the kind of its answers."""
