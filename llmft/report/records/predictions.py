"""The rows of one run's predictions: which they are, and how well each was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmft.report.records.find import path_text
from llmft.report.records.names import DOMAINS, FINAL_STAGES
from llmft.report.records.versions import OLD_ROW_COLUMNS, predictions_of

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("stage", "set", "idx", "target", "prediction", "score")
"""Columns of the predictions that every run has."""


@dataclass(frozen=True)
class RowScores:
    """How one run's final stage did on the rows of one domain's sets.

    Attributes:
        rows: tells the evaluation rows, by their idx, targets and order, from others.
        scores: (N,) the headline of each row; a bool array where all are 0 or 1.
        confusion: (L, L) how many rows of each label (first axis) got each answer; None where targets are no labels.
    """

    rows: bytes
    scores: np.ndarray
    confusion: np.ndarray | None


def read_predictions(record: Path) -> tuple[pa.Table, bool]:
    """`COLUMNS` of the predictions of the run in a folder, `stage` and `set` as dictionaries; and whether targets are labels.

    Raises:
        OSError: they are not there, are no such file, or have empty cells.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    path = record / "predictions.parquet"
    try:
        source = path if path_text(path) == str(path) else pa.BufferReader(path.read_bytes())  # arrow takes UTF-8 names alone
        with ParquetFile(source, read_dictionary=["stage", "set"]) as file:
            stored = file.schema_arrow.names
            columns = OLD_ROW_COLUMNS if "label" in stored else COLUMNS
            if lacking := set(columns) - set(stored):
                raise OSError(f"it has no column {', '.join(sorted(lacking))}")
            table = predictions_of(file.read(columns=list(columns), use_threads=False))  # small files: handing over costs more
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    if empty := [name for name in table.column_names if table[name].null_count]:
        raise OSError(f"it has empty cells in {', '.join(empty)}")
    return table.select(COLUMNS), not {"label", "label_logprobs"}.isdisjoint(stored)


def row_scores(record: Path, groups: Mapping[str, Sequence[str]]) -> dict[str, RowScores]:
    """The scores by domain, whose sets are in `groups`.

    Raises:
        OSError: the predictions cannot be read.
        ValueError: they hold what is no label or score.
    """
    table, of_labels = read_predictions(record)
    if not len(table):
        raise OSError("it has no rows")
    table = table.unify_dictionaries().combine_chunks()
    stages, sets = (table.column(name).chunk(0) for name in ("stage", "set"))
    stage_names, set_names = stages.dictionary.to_pylist(), sets.dictionary.to_pylist()
    stage = next((stage_names.index(name) for name in FINAL_STAGES if name in stage_names), None)
    final = np.flatnonzero(stages.indices.to_numpy() == stage)
    columns = {name: table.column(name).to_numpy()[final] for name in ("idx", "target", "prediction", "score")}
    numbers, results = sets.indices.to_numpy()[final], {}
    for domain in DOMAINS:
        place = np.full(len(set_names), -1, np.int8)  # by name: the file's own numbers depend on what else is in it
        names = sorted(name for name in groups.get(domain, ()) if name in set_names)
        place[[set_names.index(name) for name in names]] = range(len(names))
        places = place[numbers]
        if (places >= 0).any():  # else this stage was not asked these sets
            chosen = {name: values[places >= 0] for name, values in columns.items()}
            parts = *map(str.encode, names), places[places >= 0].tobytes(), _bytes(chosen["idx"]), _bytes(chosen["target"])
            rows = blake2b(b"\0".join(parts), digest_size=16).digest()  # the same in every process
            confusion = _confusion(chosen["target"], chosen["prediction"]) if of_labels else None
            results[domain] = RowScores(rows, compact(chosen["score"]), confusion)
    return results


def _bytes(values: np.ndarray) -> bytes:
    return values.tobytes() if values.dtype != object else "\0".join(map(str, values)).encode()


def compact(scores: np.ndarray) -> np.ndarray:
    """Scores, as bool where all are 0 or 1.

    Raises:
        ValueError: one is no finite number.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score is no finite number")
    right = scores.astype(bool)
    return right if (right == scores).all() else scores


def _confusion(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    size = int(max(labels.max(), predictions.max(), 1)) + 1
    return np.bincount(labels * size + predictions, minlength=size * size).reshape(size, size)
