"""A model's answers to a set of rows, as columns; the kind of answers decides which columns there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np


class Headline(NamedTuple):
    """The main metric of a kind of answers; its value is the mean of the column `score`."""

    name: str
    higher_is_better: bool

    def better(self, value: float, other: float) -> bool:
        """Whether a value is better than another."""
        return value > other if self.higher_is_better else value < other

    def gap_recovered(self, teacher: float, before: float, after: float) -> float | None:
        """Share of the gap between student and teacher that training closed; None if the teacher was no better."""
        return (after - before) / (teacher - before) if self.better(teacher, before) else None


@dataclass(frozen=True)
class Scores:
    """A model's answers to N rows.

    Attributes:
        columns: name -> (N, ...). Always `idx`, `target` (the right answer), `prediction`, and `score` (the row's headline, 0
            to 1); the others depend on the kind of answers. Texts and lists are objects (`of_objects`).
        tokens_per_query: mean tokens of a whole prompt, context and the model's virtual tokens included.
        shortened: rows whose text was cut to fit --max_seq_length.
    """

    columns: Mapping[str, np.ndarray]
    tokens_per_query: float
    shortened: int = 0

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    def __len__(self) -> int:
        return len(self.columns["idx"])

    def where(self, chosen: np.ndarray) -> Scores:
        """The scores of the rows that the mask (N,) selects."""
        return replace(self, columns={name: column[chosen] for name, column in self.columns.items()})

    def state(self) -> dict[str, Any]:
        """Everything, JSON-able: columns as types and values, which JSON keeps exactly."""
        columns = {name: {"dtype": c.dtype.str, "values": c.tolist()} for name, c in self.columns.items()}
        return {**vars(self), "columns": columns}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Scores:
        """The scores that had this `state`, bit for bit."""
        columns = {
            name: of_objects(column["values"]) if column["dtype"] == OBJECTS else np.array(column["values"], column["dtype"])
            for name, column in state["columns"].items()
        }
        return cls(**{**state, "columns": columns})


def mean_of_known(name: str, values: Sequence[float | None]) -> dict[str, float]:
    """A metric that not every row has: its mean over the values that are not None, and their number, as the metric `n_<name>`;
    nothing if there are none."""
    known = [value for value in values if value is not None]
    return {name: float(np.mean(known)), f"n_{name}": len(known)} if known else {}


OBJECTS = np.dtype(object).str


def of_objects(values: Sequence[Any]) -> np.ndarray:
    """(N,) of texts, or of lists of any lengths."""
    column = np.empty(len(values), object)
    for i, value in enumerate(values):
        column[i] = value
    return column
