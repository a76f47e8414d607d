"""The whole report: read the records, compute, write the files, print the short form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pandas as pd

from llmft.errors import InputError
from llmft.report.figures.figures import PICTURES, draw_all
from llmft.report.figures.points import mean_points, points
from llmft.report.page.findings import findings
from llmft.report.page.html import write_page
from llmft.report.records.collect import Collection, collect
from llmft.report.records.find import path_text
from llmft.report.records.names import EVALUATED, FINAL
from llmft.report.statistics.bootstrap import OF_TABLES, RIGHT_OR_WRONG, mean_interval, share_interval, table_interval
from llmft.report.statistics.break_even import break_evens
from llmft.report.statistics.paired import paired_tests
from llmft.report.statistics.summary import majority_of_tasks, summarise, tasks_with_other_rows, welch, welch_over_sizes
from llmft.report.tables import comparisons, contents
from llmft.report.tables.latex import latex
from llmft.report.tables.published import add_published
from llmft.report.tables.table import ReportTable, markdown, terminal
from llmft.runs.store import whole_file
from llmft.runs.summary import plain_console

PRINTED = ("results", "checkpoints", "distillation", "differences", "break_even", "unread", "left_out")
"""Tables that are printed on the terminal."""
TABLES = (*PRINTED, "words", "published", "sizes", "paired", "costs")
"""Kinds of all tables."""


def report(folder: Path, out: Path) -> None:
    """Read the runs under `folder`, write the report to `out`, print a short form of its tables.

    Raises:
        InputError: there is nothing to report on, or `out` cannot be written to.
    """
    collection = collect(folder)
    summary = summarise(collection)
    tests, sizes, evens = welch(summary), welch_over_sizes(summary), break_evens(summary, collection)
    runs = points(collection)
    lines = findings(mean_points(runs[runs["judged"]]), evens, tasks_with_other_rows(summary))
    summary = add_published(summary.drop(columns="row_digests"))
    pairs = paired_tests(tests, collection)
    tables = all_tables(collection, summary, tests, sizes, pairs, evens)
    frames = {
        "report": without_unknown_sizes(summary),
        "runs": run_table(collection),
        "differences": tests,
        "sizes": sizes.drop(columns=["ids_a", "ids_b"]),
        "paired": pairs,
        "break_even": evens,
        "left_out": pd.DataFrame(collection.left_out, columns=["record", "reason"]),
    }
    with _writing(out):
        again = (out / "report.html").is_file()
        (out / "tables").mkdir(parents=True, exist_ok=True)
        for name, frame in frames.items():
            _write_csv(frame, out / f"{name}.csv")
        _write(out / "report.md", "# Report\n\n" + "\n".join(markdown(table) for table in tables))
        by_kind = groupby(tables, key=lambda table: table.name.split("-")[0])
        texts = {out / "tables" / f"{name}.tex": "\n".join(map(latex, group)) for name, group in by_kind}
        for path, text in texts.items():
            _write(path, text)
        drawn = draw_all(collection, runs, majority_of_tasks(collection.runs), out, PICTURES)
        others = [table for table in tables if table.name != "results"]  # the page makes this one itself, for all selections
        write_page(collection, runs, lines, others, drawn, out)
        if again:  # else the files in this folder are none of ours
            _tidy(out, [*texts, *(path for sheet in drawn for path in sheet.files)])
    show(tables, out, collection.unreadable_logs)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror or error}); choose another folder") from error


def _tidy(out: Path, written: Sequence[Path]) -> None:
    """Remove files of an earlier report that this one does not replace: they would look like a part of it."""
    sheet = re.compile(rf"({'|'.join(PICTURES)})(-\d+)?\.(png|pdf)")
    pictures = (path for path in out.iterdir() if sheet.fullmatch(path.name))
    for path in {*pictures, *(out / "tables" / f"{name}.tex" for name in TABLES)} - {*written}:
        path.unlink(missing_ok=True)


def all_tables(
    collection: Collection,
    summary: pd.DataFrame,
    tests: pd.DataFrame,
    sizes: pd.DataFrame,
    pairs: pd.DataFrame,
    evens: pd.DataFrame,
) -> list[ReportTable]:
    """The tables that have rows, in the order of the report."""
    by_group = contents.result_rows(summary)
    tables = [
        contents.results(by_group, collection.shared),
        contents.checkpoints(by_group),
        contents.distillation(by_group, collection.texts),
        contents.words(summary, collection.texts),
        contents.published(summary),
        comparisons.differences(tests),
        *comparisons.over_sizes(sizes),
        comparisons.paired(pairs),
        contents.with_reasons("unread", "Runs without predictions", "not compared row by row because", collection.unread),
        comparisons.break_even_table(evens),
        contents.costs(by_group),
        contents.with_reasons("left_out", "Runs that are not counted", "not counted because", collection.left_out),
    ]
    return [table for table in tables if table.rows]


def show(tables: Sequence[ReportTable], out: Path, unreadable_logs: Mapping[str, str]) -> None:
    """Print a short form of the tables, where the full report is, and which training logs are incomplete in the curves."""
    console = plain_console()
    for table in tables:
        if table.name in PRINTED:
            lines, below = terminal(table, path_text(out / "report.md"))
            console.print(lines)
            for line in below:
                console.print(line, soft_wrap=True)
    for run, reason in unreadable_logs.items():
        console.print(f"train_log.jsonl of {run}: {reason}", soft_wrap=True)
    console.print("in the same folder: report.md, *.csv, tables/*.tex, figures as *.png and *.pdf", soft_wrap=True)
    console.print(f"report: {path_text(out)}/report.html", soft_wrap=True)


def without_unknown_sizes(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary without the columns for keys and values if no record has their size."""
    columns = [f"kv_bytes_per_query_{how}" for how in ("mean", "sd")]
    return summary.drop(columns=columns) if summary[columns[0]].isna().all() else summary


def run_table(collection: Collection) -> pd.DataFrame:
    """A row for each run: the columns of `Collection.runs`; its pooled headline metrics, as `<selection>_<set>`, and F1 and
    Matthews' correlation of the final selection, as `<selection>_<set>_<metric>`. Each has the ends of its 95 % bootstrap
    interval as `..._low` and `..._high` if its scores are known to be all 0 or 1, by the metric or by the rows of the final
    selection, or if its rows were read, as for the final selection."""
    runs, scores = collection.runs, collection.scores[collection.scores["set"].isin(EVALUATED)]
    headline = dict(zip(runs["id"], runs["headline"], strict=True))
    cells: dict[str, dict[str, tuple[float, ...]]] = {}
    for score in scores.itertuples(index=False):
        name, key = f"{score.selection}_{score.set}", (score.id, score.set)
        final = collection.row_scores.get(key)
        rows, ends = final if score.selection in FINAL else None, None
        if score.metric == headline[score.id]:
            ends = math.nan, math.nan
            if score.metric in RIGHT_OR_WRONG or (final is not None and final.scores.dtype == bool):
                ends = share_interval(score.value, score.n)
            elif rows is not None:
                ends = mean_interval(rows.scores, "".join(key))
        elif score.metric in OF_TABLES and rows is not None and rows.confusion is not None:
            name, ends = f"{name}_{score.metric}", table_interval(score.metric, rows.confusion, "".join(key))
        if ends is not None:
            cells.setdefault(name, {})[score.id] = (score.value, *ends)
    tails = enumerate(("", "_low", "_high"))
    columns = {(name, tail): {run: ends[place] for run, ends in cells[name].items()} for place, tail in tails for name in cells}
    return runs.assign(**{"".join(name): runs["id"].map(columns[name]) for name in sorted(columns, key=lambda name: name[0])})


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as csv; lists of ids are joined by `;`, which no id contains. Several times as fast as `to_csv`."""
    import pyarrow as pa
    from pyarrow.csv import WriteOptions, write_csv

    lists = {name: frame[name].map(";".join) for name in frame.columns if name.startswith("ids")}
    texts = {name: frame[name].astype(str) for name in frame.columns if isinstance(frame[name].dtype, pd.CategoricalDtype)}
    table = pa.Table.from_pandas(frame.assign(**lists, **texts), preserve_index=False)
    with whole_file(path) as aside:
        write_csv(table, aside, WriteOptions(quoting_style="needed"))


def _write(path: Path, text: str) -> None:
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")
