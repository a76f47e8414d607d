"""Draws: which rows become demonstrations, training rows, queries and evaluation rows.

The same data seed gives the rows that uds-lsv/llmft draws (including demonstrations in prompt order), from legacy
`numpy.random.RandomState` streams, which are never global here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmft.errors import InputError
from llmft.prompts.render import PromptFormat

Row = Mapping[str, Any]
"""A row of a task, by the names of its columns: `text1`, `text2`, `label`, `idx`; `answer` if answers are text, and
`history` (a tuple of `render.Turn`) if it is part of a conversation."""
EVAL_SUBSET_SEED = 123
"""Upstream's seed for the evaluation subset: the same rows for every data seed."""


def draw_demonstrations(
    rows: Sequence[Row], num_shots: int, *, data_seed: int | Sequence[int], balanced: bool, shuffle: bool, num_labels: int
) -> list[Row]:
    """Draw `num_shots` demonstrations and put them in prompt order.

    Args:
        data_seed: upstream's seeds are single numbers.
        balanced: draw the same number of each label, else regardless of labels.
        shuffle: shuffle by the data seed, else keep the order of the data.
        num_labels: 0 for text answers, which cannot be balanced.

    Raises:
        InputError: there are too few rows, or `num_shots` cannot be divided evenly among the labels.
    """
    if num_shots < 0:
        raise InputError(f"--num_shots {num_shots}: must be 0 or more")
    stream = np.random.RandomState(data_seed)
    labels = np.array([row["label"] for row in rows])
    positions: list[int] = []
    pools = {"": np.arange(len(rows))}
    if balanced and num_labels:
        if num_shots % num_labels:
            raise InputError(
                f"--num_shots {num_shots}: cannot be divided evenly among {num_labels} labels; "
                f"use a multiple of {num_labels}, or --no_balanced"
            )
        pools = {f"of label {label} ": np.flatnonzero(labels == label) for label in range(num_labels)}
    for kind, pool in pools.items():
        count = num_shots // len(pools)
        if count > len(pool):
            raise InputError(
                f"--num_shots {num_shots}: {count} demonstrations {kind}are requested, but there are only {len(pool)} rows; "
                "use fewer"
            )
        positions += stream.choice(pool, count, replace=False).tolist()
    drawn = [rows[position] for position in sorted(positions)]
    if shuffle:
        drawn = [drawn[i] for i in np.random.default_rng(data_seed).permutation(len(drawn))]
    return drawn


def draw_contexts(
    rows: Sequence[Row], num_contexts: int, num_shots: int, *, data_seed: int, balanced: bool, shuffle: bool, num_labels: int
) -> list[list[Row]]:
    """Draw the demonstrations of several contexts without shared rows; the first context is that of in-context learning.

    Raises:
        InputError: there are too few rows, or `num_shots` cannot be divided evenly among the labels.
    """
    contexts: list[list[Row]] = []
    left = list(rows)
    for number in range(num_contexts):
        seed = data_seed if number == 0 else (data_seed, number)
        try:
            drawn = draw_demonstrations(
                left, num_shots, data_seed=seed, balanced=balanced, shuffle=shuffle, num_labels=num_labels
            )
        except InputError as error:
            if number == 0:
                raise
            raise InputError(
                f"--num_contexts {num_contexts}: {number} contexts of {num_shots} demonstrations use up the rows ({error}); "
                "use fewer contexts or shots"
            ) from error
        contexts.append(drawn)
        taken = {row["idx"] for row in drawn}
        left = [row for row in left if row["idx"] not in taken]
    return contexts


def draw_training_rows(rows: Sequence[Row], max_samples: int | None, *, data_seed: int, exclude: Sequence[Row] = ()) -> list[Row]:
    """The first `max_samples` (None: all) of the rows in upstream's random order, skipping those in `exclude`.

    Raises:
        InputError: there are fewer rows than requested.
    """
    order = np.random.RandomState(data_seed).permutation(len(rows))
    unwanted = {row["idx"] for row in exclude}
    left = [rows[i] for i in order if rows[i]["idx"] not in unwanted]
    wanted = len(left) if max_samples is None else max_samples
    if not 0 < wanted <= len(left):
        raise InputError(f"--max_train_samples {wanted}: must be from 1 to {len(left)}, the number of training rows")
    return left[:wanted]


def draw_eval_rows(rows: Sequence[Row], max_samples: int | None) -> list[Row]:
    """Upstream's fixed evaluation subset of `max_samples` rows (all, if None or if there are not more).

    Raises:
        InputError: `max_samples` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise InputError(f"--max_eval_samples {max_samples}: must be 1 or more")
    if max_samples is None or max_samples >= len(rows):
        return list(rows)
    return [rows[i] for i in np.random.RandomState(EVAL_SUBSET_SEED).choice(len(rows), max_samples, replace=False)]


def create_few_shot_context(
    rows: Sequence[Row], num_shots: int, prompt_format: PromptFormat, *, data_seed: int, balanced: bool, shuffle: bool
) -> tuple[str, list[int]]:
    """The context of `num_shots` drawn demonstrations, and their `idx` in prompt order; the name is upstream's."""
    drawn = draw_demonstrations(
        rows, num_shots, data_seed=data_seed, balanced=balanced, shuffle=shuffle, num_labels=len(prompt_format.words)
    )
    return prompt_format.context(drawn), [row["idx"] for row in drawn]
