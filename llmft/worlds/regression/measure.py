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
from llmft.worlds.regression.pretrained import PretrainedRun, find_pretrained, method_of
from llmft.worlds.regression.recipe import pool_name
from llmft.worlds.regression.tasks import FRESH
from llmft.worlds.regression.thresholds import changes_of, summary_of_changes

OF_RUN = ["kind", "dimension", "steps", "batch_size", "seed", "pool"]
"""What identifies a member in every table; `pool` is the number of tasks, 0 where they are fresh."""
CURVES = ("losses", "pretrain_to_dmmse", "pretrain_to_ridge", "true_to_ridge")
RESULTS = (
    (PRETRAIN, "error"), (PRETRAIN, "error_dmmse"), (PRETRAIN, "error_ridge"), (PRETRAIN, "to_dmmse"), (PRETRAIN, "to_ridge"),
    (PRETRAIN, "place"), (TRUE, "error"), (TRUE, "error_dmmse"), (TRUE, "error_ridge"), (TRUE, "to_ridge"),
    (TRUE, "dmmse_to_ridge"),
)  # fmt: skip
"""Columns of the table for reading."""


def identify(run: PretrainedRun, pool: int) -> dict[str, Any]:
    """The columns `OF_RUN` of a member."""
    recipe = run.recipe
    values = run.kind, recipe.dimension, recipe.steps, recipe.batch_size, recipe.seed, pool
    return dict(zip(OF_RUN, values, strict=True))


def results_of(runs: Sequence[PretrainedRun]) -> pd.DataFrame:
    """A row for each member and set of tasks, with the metrics of `Comparison.metrics`."""
    rows = []
    for run in runs:
        for pool in run.recipe.num_pretraining_tasks:
            for task_set in TASK_SETS:
                metrics = run.metrics["stages"]["after"][f"{task_set} {pool_name(pool)}"]
                rows.append({**identify(run, pool), "tasks": task_set, **metrics})
    frame = pd.DataFrame(rows)
    again = frame.duplicated([*OF_RUN, "tasks"])
    if again.any():
        say_note(f"{again.sum() // len(TASK_SETS)} models were trained in two runs of the same budget and seed; the first counts")
    return frame[~again]


def curves_of(runs: Sequence[PretrainedRun]) -> pd.DataFrame:
    """A row for each member and logged step: the distances during training."""
    rows = [
        {**identify(run, pool), "step": entry["step"], **{name: entry[name][member] for name in CURVES}}
        for run in runs
        for entry in run.log
        for member, pool in enumerate(run.recipe.num_pretraining_tasks)
    ]
    return pd.DataFrame(rows)


def nearest_steps(curves: pd.DataFrame) -> pd.DataFrame:
    """t* of each member: the step at which it is closest to ridge on tasks of its pool (the paper's figure 4), and how close."""
    nearest = curves.loc[curves.groupby(OF_RUN, sort=False)["pretrain_to_ridge"].idxmin()]
    return nearest[[*OF_RUN, "step", "pretrain_to_ridge"]].reset_index(drop=True)


def paths_of(runs: Sequence[PretrainedRun], pairs: int) -> pd.DataFrame:
    """A row for each member with the largest budget of its kind and each point between two tasks of its pool."""
    largest = {run.kind_key: max(one.budget for one in runs if one.kind_key == run.kind_key) for run in runs}
    rows = []
    for run in runs:
        if pairs and run.budget == largest[run.kind_key]:
            model, pools = run.load()
            for pool, errors in zip(
                run.recipe.num_pretraining_tasks, path_errors(model, pools, run.recipe.problem, pairs), strict=True
            ):
                rows += [{**identify(run, pool), **row} for row in errors]
    return pd.DataFrame(rows)


def distillations_below(folder: Path) -> pd.DataFrame:
    """A row for each model of each finished distillation at or below a folder: the columns of its record's table."""
    rows = []
    for done in sorted(folder.rglob(DONE)):
        if method_of(done.parent) == "distill":
            config, metrics = (json.loads((done.parent / f"{name}.json").read_text("utf-8")) for name in ("config", "metrics"))
            pretraining, own = (config["arguments"][name] for name in ("RegressionRecipe", "DistillationRecipe"))
            shared = {name: pretraining[name] for name in ("dimension", "layers", "width", "weight_decay", "steps", "seed")}
            context = {name: own[name] for name in ("context_task", "context_examples", "num_contexts")}
            rows += [{**shared, **context, "pool": pool, **row} for pool, row in metrics["table"].items()]
    return pd.DataFrame(rows)


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
    wide = results.pivot(index=OF_RUN, columns="tasks", values=[name for name in {name for _, name in RESULTS}])
    columns = {f"{task_set}: {name}".replace("_", " "): wide[name][task_set] for task_set, name in RESULTS}
    return pd.DataFrame(columns).reset_index().pipe(with_pool_names)


def with_pool_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame ordered by pool, fresh tasks last, with the pools' names in place of their sizes."""
    place = frame["pool"].where(frame["pool"] != FRESH, float("inf"))
    others = [name for name in OF_RUN if name in frame.columns and name != "pool"]
    ordered = frame.assign(place=place).sort_values([*others, "place"], kind="stable").drop(columns="place")
    return ordered.assign(pool=ordered["pool"].map(pool_name)).reset_index(drop=True)


def measure_runs(folder: Path, out: Path, pairs: int) -> str:
    """Write all tables to a folder.

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
        "path": paths_of(runs, pairs),
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
    arguments = parser.parse_args(argv)
    if arguments.path_pairs < 0:
        raise InputError(f"--path_pairs {arguments.path_pairs}: give 0 or more")
    torch.set_num_threads(1)
    out = arguments.out or arguments.folder / "task_diversity"
    print(measure_runs(arguments.folder, out, arguments.path_pairs))
    print(f"tables: {out}")


if __name__ == "__main__":
    run_main(main)
