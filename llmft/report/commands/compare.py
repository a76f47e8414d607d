"""`python -m llmft.report compare RUN RUN [--folder FOLDER] [--out CSV]`: the differences between two runs and their answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmft.errors import InputError
from llmft.report.commands.one_run import Run, find_run, first_values, four_digits, table_of, understood
from llmft.report.records.identities import TRAINED_ON, data_of, differing
from llmft.report.records.names import FINAL_STAGES
from llmft.report.records.predictions import cannot_be_read, compact, read_predictions
from llmft.report.statistics.paired import MCNEMAR, WILCOXON, mcnemar_p, only_better, wilcoxon_p
from llmft.runs.finished import OUTPUT_DIR
from llmft.runs.store import whole_file
from llmft.runs.summary import is_count, plain_console

SHOWN = 20
"""Number of flips to print; `--out` writes all."""
ITEMS, WIDTH = 6, 60
"""Maximum number of items of a list, and of characters of a text, in the table of what differs."""
PLACES = ("output_dir", "logging_dir", "run_name")
"""Arguments about the location of a run."""


def main(argv: Sequence[str]) -> None:
    """Print the differences between two runs; write all flips on request.

    Raises:
        InputError: there is no such finished run, a record cannot be understood, or the file cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m llmft.report compare", description="Two runs side by side.")
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder, or the beginning of its name")
    parser.add_argument("--folder", type=Path, default=Path(OUTPUT_DIR), help="where to search for names; default: logfiles")
    parser.add_argument("--out", type=Path, help="csv file for all rows whose answers flipped")
    arguments = parser.parse_args(argv)
    if arguments.out is not None and not arguments.out.resolve().parent.is_dir():
        raise InputError(f"--out {arguments.out}: there is no such folder; create it, or choose another")
    one, other = (find_run(name, arguments.folder) for name in arguments.runs)

    with understood(one, other):
        changes, metrics = list(setting_differences(one, other)), list(metric_rows(one, other))
        counts, flipped, remarks = flips(one, other)
    if arguments.out is not None:
        try:
            with whole_file(arguments.out.resolve()) as aside:
                flipped.to_csv(aside, index=False)
        except OSError as error:
            raise InputError(f"--out {arguments.out}: cannot be written ({error.strerror or error}); name a file") from error
    console = plain_console()
    console.print(f"a: {one.title}\nb: {other.title}")
    if changes:
        console.print(table_of("What differs", ("", "a", "b"), changes, left=3))
    else:
        console.print("arguments, versions, commit, data and draws are identical")
    console.print(table_of("Metrics", ("stage", "set", "metric", "a", "b", "b - a"), metrics, left=3))
    if counts:
        console.print(
            table_of("Row by row", ("stages", "set", "test", "n", "only a better", "only b better", "p"), counts, left=3)
        )
    for line in remarks:
        console.print(line)
    for (name, change), rows in flipped.groupby(["set", "change"], sort=False):
        console.print(f"{name}, {change}: idx {first_values(list(rows['idx']), SHOWN)}", soft_wrap=True)
    if arguments.out is not None:
        console.print(f"flips: {arguments.out}", soft_wrap=True)


def setting_differences(one: Run, other: Run) -> Iterator[tuple[str, str, str]]:
    """Name and both values of each argument, version, commit, data file and draw that differs."""
    a, b = _described(one), _described(other)
    return ((name, *_differing(a.get(name), b.get(name))) for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name))


def _described(run: Run) -> dict[str, Any]:
    config, environment = run.config, run.config.get("environment", {})
    draws = {name: config["draws"][name] for name in ("demonstrations", "train_rows")} | config["draws"]["eval_rows"]
    return {
        **{name: config[name] for name in ("method", "task", "task_version", "model")},
        **{f"--{name}": value for name, value in {**run.arguments, **config["given"]}.items() if name not in PLACES},
        **{"python": environment.get("python"), **environment.get("packages", {})},
        **{name: environment.get(name) for name in ("git_commit", "git_dirty")},
        **{f"data: {name}": content for name, content in config.get("data_fingerprints", {}).items()},
        **{f"draws: {name}": rows for name, rows in draws.items()},
    }


def _differing(a: Any, b: Any) -> tuple[str, str]:
    """Both values as texts that show a difference: of long lists what only one of them has, of long texts the part around the
    first difference."""
    a, b = (v[0] if isinstance(v, list) and len(v) == 1 and isinstance(v[0], list) else v for v in (a, b))
    if isinstance(a, list) and isinstance(b, list) and max(len(a), len(b)) > ITEMS:
        known = [{*map(str, items)} for items in (b, a)]
        only = [[item for item in items if str(item) not in others] for items, others in zip((a, b), known, strict=True)]
        if any(only):
            first, second = (f"only: {first_values(items, ITEMS) or 'none'}" for items in only)
            return first, second
    texts = _text(a), _text(b)
    first, second = texts if texts[0] != texts[1] else (repr(a), repr(b))
    place = next((i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y), min(len(first), len(second)))
    return _around(first, place), _around(second, place)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _around(text: str, place: int) -> str:
    """At most `WIDTH` characters of a text, from a little before `place`, with … where it is cut."""
    start = max(0, min(place - WIDTH // 3, len(text) - WIDTH))
    end = start + WIDTH
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))


def metric_rows(one: Run, other: Run) -> Iterator[tuple[str, ...]]:
    """Stage, set, metric, both values and their difference, for stages and sets that both have, then for their last stages."""
    first, second = one.metrics["stages"], other.metrics["stages"]
    pairs = {stage: (stage, stage) for stage in first if stage in second}
    if (final := final_stages(one, other)) is not None:
        pairs.setdefault(" / ".join(dict.fromkeys(final)), final)
    for title, (a, b) in pairs.items():
        for name, values in first[a].items():
            for metric, value in values.items():
                changed = second[b].get(name, {}).get(metric)
                if not is_count(metric, values) and value is not None and changed is not None:
                    yield title, name, metric, four_digits(value), four_digits(changed), f"{changed - value:+.4g}"


def final_stages(one: Run, other: Run) -> tuple[str, str] | None:
    """The stage that each run is judged by."""
    first, second = (next((s for s in FINAL_STAGES if s in run.metrics["stages"]), None) for run in (one, other))
    return None if first is None or second is None else (first, second)


def flips(one: Run, other: Run) -> tuple[list[tuple[str, ...]], pd.DataFrame, list[str]]:
    """Comparison of the scores of the final stages, row by row.

    Returns:
        The test of every set, with counts and p; the rows on which one run did better; remarks on what cannot be compared.
    """
    counts, flipped, remarks = [], [], []
    columns = ["set", "idx", "target", "prediction_a", "prediction_b", "change"]
    stages, headline = final_stages(one, other), one.metrics["headline"]
    other_data = sorted(differing([data_of(run.config, run.arguments) for run in (one, other)]) - TRAINED_ON)
    if stages is None:
        remarks = ["the runs have no final stages to compare"]
    elif headline != other.metrics["headline"]:
        remarks = ["the runs are judged by different metrics; their rows are not compared"]
    elif other_data:
        remarks = [f"{', '.join(other_data)}: the data differ, so rows are not compared"]
    if stages is None or remarks:
        return counts, pd.DataFrame(columns=columns), remarks
    tables = [_predictions(run, stage) for run, stage in zip((one, other), stages, strict=True)]
    if "query" in tables[0]:
        columns.insert(2, "query")
    for name in dict.fromkeys([*tables[0]["set"], *tables[1]["set"]]):
        a, b = (table[table["set"] == name].reset_index(drop=True) for table in tables)
        if a.empty or b.empty:
            remarks.append(f"{name}: only {'b' if a.empty else 'a'} was evaluated on it; not compared")
        elif not a[["idx", "target"]].equals(b[["idx", "target"]]):
            remarks.append(f"{name}: the evaluation rows differ ({len(a)} and {len(b)}); not compared")
        else:
            scores = [compact(table["score"].to_numpy()) for table in (a, b)]
            only = only_better(*scores, headline["higher_is_better"])
            binary = scores[0].dtype == scores[1].dtype == bool
            test, p = (MCNEMAR, mcnemar_p(*map(np.array, only))) if binary else (WILCOXON, wilcoxon_p(*scores))
            counts.append((" / ".join(dict.fromkeys(stages)), name, test, str(len(a)), *map(str, only), f"{p:.3g}"))
            rows = a.rename(columns={"prediction": "prediction_a"}).assign(prediction_b=b["prediction"])
            gains = (scores[1] * 1.0 - scores[0]) * (1 if headline["higher_is_better"] else -1)
            words = ("from right to wrong", "from wrong to right") if binary else ("worse", "better")
            flipped += [rows[gains * sign > 0].assign(change=word) for sign, word in zip((-1, 1), words, strict=True)]
    return counts, pd.concat(flipped)[columns] if flipped else pd.DataFrame(columns=columns), remarks


def _predictions(run: Run, stage: str) -> pd.DataFrame:
    try:
        table = read_predictions(run.path, ("query",)).table.to_pandas()
    except OSError as error:
        raise InputError(f"{run.path}: {cannot_be_read(error)}") from error
    return table[table["stage"] == stage].drop(columns="stage")
