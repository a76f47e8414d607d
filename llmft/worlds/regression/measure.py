"""Makes tables of finished pretraining runs, and of the distillations of their contexts:

    python -m llmft.worlds.regression.measure logfiles

`results.csv` has every number of every run, `thresholds.csv` how the distance to ridge changes from one budget to the next,
`steps.csv` the curves over training, `path.csv` the errors along the lines between two tasks of a pool, `distillation.csv` the
students; `tables.md` is the readable version. `python -m llmft.report diversity` draws them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from llmft.errors import InputError
from llmft.runs.names import DONE
from llmft.runs.notes import say_note
from llmft.runs.program import run_main
from llmft.runs.store import whole_file
from llmft.worlds.regression.evaluation import PRETRAIN, TASK_SETS, TRUE
from llmft.worlds.regression.paths import path_errors
from llmft.worlds.regression.pretrain import use_device
from llmft.worlds.regression.pretrained import PretrainedRun, find_pretrained, method_of
from llmft.worlds.regression.recipe import RegressionRecipe, as_flags, pool_name
from llmft.worlds.regression.students import DistillationRecipe
from llmft.worlds.regression.tasks import FRESH
from llmft.worlds.regression.thresholds import changes_of, summary_of_changes

OF_RUN = ["kind", "dimension", "steps", "batch_size", "seed", "pool"]
"""What identifies a member in every table; `pool` is the number of tasks, 0 where they are fresh."""
CURVES = ("losses", "pretrain_to_dmmse", "pretrain_to_ridge", "true_to_ridge")
RESULTS = (
    (PRETRAIN, "loss"), (PRETRAIN, "error"), (PRETRAIN, "error_dmmse"), (PRETRAIN, "error_ridge"), (PRETRAIN, "to_dmmse"),
    (PRETRAIN, "to_ridge"), (PRETRAIN, "place"), (TRUE, "error"), (TRUE, "error_dmmse"), (TRUE, "error_ridge"),
    (TRUE, "to_ridge"), (TRUE, "dmmse_to_ridge"),
)  # fmt: skip
"""Columns of the table for reading."""
OF_PRETRAINING = ("layers", "width", "weight_decay")
OF_CONTEXT = ("context_task", "context_examples")
"""Columns of distillations, beside what identifies the member and the students."""
MANY, PLATEAU = 64, 0.9
"""With at least so many tasks, a model whose normalised loss is not below this has not begun to read its context."""


def identify(recipe: RegressionRecipe, pool: int) -> dict[str, Any]:
    """The columns `OF_RUN` of a member."""
    values = recipe.kind, recipe.dimension, recipe.steps, recipe.batch_size, recipe.seed, pool
    return dict(zip(OF_RUN, values, strict=True))


def results_of(runs: Sequence[PretrainedRun]) -> pd.DataFrame:
    """A row for each member and set of tasks, with the metrics of `Comparison.metrics`."""
    rows = []
    for run in runs:
        for pool in run.recipe.num_pretraining_tasks:
            for task_set in TASK_SETS:
                metrics = run.metrics["stages"]["after"][f"{task_set} {pool_name(pool)}"]
                rows.append({**identify(run.recipe, pool), "tasks": task_set, **metrics})
    frame = first_of_each(pd.DataFrame(rows), [*OF_RUN, "tasks"], len(TASK_SETS), "models were trained")
    many = (frame["pool"] >= MANY) | (frame["pool"] == FRESH)
    stuck = frame[(frame["tasks"] == PRETRAIN) & many & ~(frame["loss"] < PLATEAU)]
    if len(stuck):
        members = (
            f"{pool_name(row.pool)} of seed {row.seed}, {row.steps} steps of {row.batch_size} sequences, {row.kind}"
            for row in stuck.itertuples()
        )
        say_note(
            f"some models of many tasks may still predict the mean, which looks like a threshold, since their loss is {PLATEAU} "
            f"or more; train them for longer: {'; '.join(members)}"
        )
    return frame


def first_of_each(frame: pd.DataFrame, keys: list[str], rows: int, what: str) -> pd.DataFrame:
    """The frame without rows whose keys were there before, which a note counts: so many rows are one thing."""
    again = frame.duplicated(keys)
    if again.any():
        say_note(f"{again.sum() // rows} {what} in two runs of the same budget and seed; the first counts")
    return frame[~again]


def curves_of(runs: Sequence[PretrainedRun]) -> pd.DataFrame:
    """A row for each member and logged step: the distances during training."""
    rows = [
        {**identify(run.recipe, pool), "step": entry["step"], **{name: entry[name][member] for name in CURVES}}
        for run in runs
        for entry in run.log
        for member, pool in enumerate(run.recipe.num_pretraining_tasks)
    ]
    return pd.DataFrame(rows)


def nearest_steps(curves: pd.DataFrame) -> pd.DataFrame:
    """t* of each member: the step at which it is closest to ridge on tasks of its pool (the paper's figure 4), and how close."""
    nearest = curves.loc[curves.groupby(OF_RUN, sort=False)["pretrain_to_ridge"].idxmin()]
    return nearest[[*OF_RUN, "step", "pretrain_to_ridge"]].reset_index(drop=True)


def paths_of(runs: Sequence[PretrainedRun], pairs: int, device: torch.device) -> pd.DataFrame:
    """A row for each member with the largest budget of its kind and each point between two tasks of its pool."""
    largest: dict[str, int] = {}
    for run in runs:
        largest[run.recipe.kind] = max(run.budget, largest.get(run.recipe.kind, 0))
    rows = []
    for run in runs:
        if pairs and run.budget == largest[run.recipe.kind]:
            model, pools = run.load(device)
            for pool, errors in zip(
                run.recipe.num_pretraining_tasks, path_errors(model, pools, run.recipe.problem, pairs), strict=True
            ):
                rows += [{**identify(run.recipe, pool), **row} for row in errors]
    return pd.DataFrame(rows)


def distillations_below(folder: Path) -> pd.DataFrame:
    """A row for each model of each finished distillation at or below a folder: which model, `students` (the arguments of the
    distillation that are not at their default), the contexts, and the columns of its record's table."""
    rows = []
    for done in sorted(folder.rglob(DONE)):
        if method_of(done.parent) == "distill":
            config, metrics = (json.loads((done.parent / f"{name}.json").read_text("utf-8")) for name in ("config", "metrics"))
            recipe = RegressionRecipe.from_record(config)
            own = DistillationRecipe.from_record(config)
            of_model = {name: getattr(recipe, name) for name in OF_PRETRAINING}
            students = as_flags({name: value for name, value in own.given.items() if name not in OF_CONTEXT})
            context = {name: getattr(own, name) for name in (*OF_CONTEXT, "num_contexts")}
            for size in recipe.num_pretraining_tasks:
                member = {**identify(recipe, size), "pool": pool_name(size), **of_model, "students": students, **context}
                rows.append(member | metrics["table"][pool_name(size)])
    if not rows:
        return pd.DataFrame()
    return first_of_each(pd.DataFrame(rows), [*OF_RUN, "students", *OF_CONTEXT], 1, "models were distilled")


def markdown_of(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, with four decimals for fractional numbers and - for empty cells."""

    def cell(value: Any) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in frame.astype(object).itertuples(index=False)]
    return "\n".join(lines)


def for_reading(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each member: the distances of eq. 4 on both sets of tasks, side by side."""
    results = results.reindex(columns=results.columns.union(["place"], sort=False))  # fresh tasks alone have none
    wide = results.pivot(index=OF_RUN, columns="tasks", values=[name for name in {name for _, name in RESULTS}])
    columns = {f"{task_set}: {name}".replace("_", " "): wide[name][task_set] for task_set, name in RESULTS}
    return pd.DataFrame(columns).reset_index().pipe(with_pool_names)


def with_pool_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame ordered by pool, fresh tasks last, with the pools' names in place of their sizes."""
    place = frame["pool"].where(frame["pool"] != FRESH, float("inf"))
    others = [name for name in OF_RUN if name in frame.columns and name != "pool"]
    ordered = frame.assign(place=place).sort_values([*others, "place"], kind="stable").drop(columns="place")
    return ordered.assign(pool=ordered["pool"].map(pool_name)).reset_index(drop=True)


def measure_runs(folder: Path, out: Path, pairs: int, device: torch.device) -> str:
    """Write all tables to a folder. The errors between tasks are computed on a device.

    Returns:
        The tables for reading, as Markdown.

    Raises:
        InputError: there are no runs, or the folder cannot be written to.
    """
    runs = find_pretrained(folder, "folder")
    results, curves = results_of(runs), curves_of(runs)
    changes = changes_of(results)
    frames = {
        "results": results,
        "steps": curves,
        "nearest": nearest_steps(curves),
        "thresholds": changes,
        "path": paths_of(runs, pairs, device),
        "distillation": distillations_below(folder),
    }
    sections = {
        "Distances": for_reading(results),
        "Two budgets": summary_of_changes(changes),
        "Nearest to ridge on tasks of the pool (t*)": with_pool_names(frames["nearest"]),
        "Distilled contexts": frames["distillation"],
    }
    text = "".join(f"## {title}\n\n{markdown_of(frame)}\n\n" for title, frame in sections.items() if len(frame))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, frame in frames.items():
            with whole_file(out / f"{name}.csv") as aside:
                frame.to_csv(aside, index=False)
        with whole_file(out / "tables.md") as aside:
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror or error}); choose another folder") from error
    return text


def main(argv: Sequence[str] | None = None) -> None:
    """Read the flags and write the tables.

    Raises:
        InputError: there is nothing to measure.
    """
    parser = argparse.ArgumentParser(
        prog="python -m llmft.worlds.regression.measure", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="the --output_dir of pretraining runs")
    parser.add_argument("--out", type=Path, help="where the tables go (default: FOLDER/task_diversity)")
    parser.add_argument(
        "--path_pairs",
        type=int,
        default=32,
        help="pairs of tasks between which errors are measured, 0: none (default: %(default)s)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="computes these errors (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.path_pairs < 0:
        raise InputError(f"--path_pairs {arguments.path_pairs}: give 0 or more")
    device = use_device(arguments.device)
    out = arguments.out or arguments.folder / "task_diversity"
    print(measure_runs(arguments.folder, out, arguments.path_pairs, device))
    print(f"tables: {out}")


if __name__ == "__main__":
    run_main(main)
