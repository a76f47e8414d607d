"""The rows of one run's predictions: their identity, and the score of each."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmft.report.records.find import path_text
from llmft.report.records.names import EVALUATED, FINAL_STAGES
from llmft.report.records.versions import OLD_ROW_COLUMNS, predictions_of
from llmft.runs.summary import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("stage", "set", "idx", "target", "prediction", "score")
"""Columns of the predictions that every run has."""
TOKENS = {"nll": "target_tokens", "kl": "teacher_tokens"}
"""Metrics that are means over tokens -> column with the number of tokens of each row."""


@dataclass(frozen=True)
class RowScores:
    """How one run's final stage did on the rows of one domain's sets.

    Attributes:
        rows: digest of the evaluation rows' idx, targets and order.
        scores: (N,) the headline metric of each row; a bool array if all are 0 or 1.
        confusion: (L, L) number of rows of each label (first axis) with each answer; None if targets are not labels.
    """

    rows: bytes
    scores: np.ndarray
    confusion: np.ndarray | None


@dataclass(frozen=True)
class Predictions:
    """One run's predictions.

    Attributes:
        table: `COLUMNS` and other requested columns, with `stage` and `set` as dictionaries.
        stored: names of all columns in the file.
    """

    table: pa.Table
    stored: Sequence[str]

    @property
    def of_labels(self) -> bool:
        """Whether targets are labels, which are stored as whole numbers."""
        import pyarrow as pa

        return pa.types.is_integer(self.table.schema.field("target").type)

    @property
    def of_texts(self) -> bool:
        """Whether targets are texts that answer queries in the file."""
        return self._in_words and "query" in self.stored

    @property
    def _in_words(self) -> bool:
        """Whether targets are stored as text; labels of other tasks in the run are then text as well."""
        import pyarrow as pa

        kind = self.table.schema.field("target").type
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@dataclass(frozen=True)
class RowWeights:
    """Weights of the sets when a metric is pooled over several sets, for metrics that the predictions have row by row.

    Attributes:
        rows: names of the predictions' columns except those of `TOKENS`: metrics with these names are means over rows.
        tokens: metric of `TOKENS` -> (stage, set) -> tokens of its rows.
    """

    rows: Sequence[str] = ()
    tokens: Mapping[str, Mapping[tuple[str, str], float]] = field(default_factory=dict)

    def of(self, stage: str, name: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """The weights of a set with these metrics, by metric; columns that are not metrics are included."""
        over_tokens = {metric: of[stage, name] for metric, of in self.tokens.items() if (stage, name) in of}
        return {**{column: rows_of(metrics, column) for column in self.rows}, **over_tokens}


def row_weights(predictions: Predictions) -> RowWeights:
    """The weights of the sets in some predictions, which must have been read with their columns of `TOKENS`."""
    tokens = {}
    for metric, column in TOKENS.items():
        if column in predictions.table.column_names:
            sums = predictions.table.group_by(["stage", "set"]).aggregate([(column, "sum")]).to_pylist()
            tokens[metric] = {(row["stage"], row["set"]): row[f"{column}_sum"] for row in sums if row[f"{column}_sum"]}
    return RowWeights([name for name in predictions.stored if name not in TOKENS], tokens)


def cannot_be_read(error: Exception) -> str:
    """The reason why there are no predictions, from the error of `read_predictions` or one in using them."""
    reason = error.strerror or error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return f"predictions.parquet cannot be read ({reason})"


def read_predictions(record: Path, further: Container[str] = ()) -> Predictions:
    """`COLUMNS` of the predictions of the run in a folder, and those of `further` that exist.

    Raises:
        OSError: the file is missing or of another format, or has empty cells.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    path = record / "predictions.parquet"
    try:
        source = path if path_text(path) == str(path) else pa.BufferReader(path.read_bytes())  # arrow only supports UTF-8 names
        with ParquetFile(source, read_dictionary=["stage", "set"]) as file:
            stored = file.schema_arrow.names
            columns = OLD_ROW_COLUMNS if "label" in stored else COLUMNS
            if lacking := set(columns) - set(stored):
                raise OSError(f"it has no column {', '.join(sorted(lacking))}")
            others = [name for name in stored if name in further and name not in columns]
            # for small files threads cost more than they save
            table = predictions_of(file.read(columns=[*columns, *others], use_threads=False))
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    if empty := [name for name in COLUMNS if table[name].null_count]:
        raise OSError(f"it has empty cells in {', '.join(empty)}")
    if not len(table):
        raise OSError("it has no rows")
    return Predictions(table.select([*COLUMNS, *others]), stored)


def row_scores(predictions: Predictions, groups: Mapping[str, Sequence[str]]) -> dict[str, RowScores]:
    """The scores by domain, whose sets are in `groups`.

    Raises:
        ValueError: the predictions contain invalid labels or scores.
    """
    table, of_labels = predictions.table.select(COLUMNS).unify_dictionaries().combine_chunks(), predictions.of_labels
    stages, sets = (table.column(name).chunk(0) for name in ("stage", "set"))
    stage_names, set_names = stages.dictionary.to_pylist(), sets.dictionary.to_pylist()
    stage = next((stage_names.index(name) for name in FINAL_STAGES if name in stage_names), None)
    final = np.flatnonzero(stages.indices.to_numpy() == stage)
    columns = {name: table.column(name).to_numpy()[final] for name in ("idx", "target", "prediction", "score")}
    numbers, results = sets.indices.to_numpy()[final], {}
    for domain in EVALUATED:
        place = np.full(len(set_names), -1, np.int8)  # by name: the file's own numbers depend on its other content
        names = sorted(name for name in groups.get(domain, ()) if name in set_names)
        place[[set_names.index(name) for name in names]] = range(len(names))
        places = place[numbers]
        if (places >= 0).any():  # else this stage was not evaluated on these sets
            chosen = {name: values[places >= 0] for name, values in columns.items()}
            parts = *map(str.encode, names), places[places >= 0].tobytes(), _bytes(chosen["idx"]), _bytes(chosen["target"])
            rows = blake2b(b"\0".join(parts), digest_size=16).digest()  # the same in every process
            confusion = _confusion(chosen["target"], chosen["prediction"]) if of_labels else None
            results[domain] = RowScores(rows, compact(chosen["score"]), confusion)
    return results


def _bytes(values: np.ndarray) -> bytes:
    return values.tobytes() if values.dtype != object else "\0".join(map(str, values)).encode()


def compact(scores: np.ndarray) -> np.ndarray:
    """Scores, as bool if all are 0 or 1.

    Raises:
        ValueError: one is not a finite number.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number")
    right = scores.astype(bool)
    return right if (right == scores).all() else scores


def _confusion(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    size = int(max(labels.max(), predictions.max(), 1)) + 1
    return np.bincount(labels * size + predictions, minlength=size * size).reshape(size, size)
