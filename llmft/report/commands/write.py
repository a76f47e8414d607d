"""The whole report: read the records, count, write the files, print the short form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pandas as pd

from llmft.errors import InputError
from llmft.report.figures.figures import PICTURES, Drawn, draw_all
from llmft.report.figures.points import majority, majority_of_runs
from llmft.report.page.html import write_page
from llmft.report.records.collect import Collection, collect
from llmft.report.records.find import shown
from llmft.report.records.names import DOMAINS, FINAL
from llmft.report.records.pool import Workers
from llmft.report.statistics.bootstrap import TABLE_METRICS, share_intervals, table_intervals
from llmft.report.statistics.break_even import break_evens
from llmft.report.statistics.paired import Answers, asked_unlike, mcnemar, read_answers, with_other_rows
from llmft.report.statistics.summary import summarise, welch, welch_over_sizes, with_majority
from llmft.report.tables import comparisons, contents
from llmft.report.tables.latex import latex
from llmft.report.tables.published import beside
from llmft.report.tables.table import Table, markdown, terminal
from llmft.runs.show import plain_console
from llmft.runs.store import whole_file

PRINTED = ("results", "checkpoints", "distillation", "differences", "break_even", "unread", "left_out")
"""Tables that a terminal gets."""
TABLES = (
    "results", "checkpoints", "distillation", "published", "differences", "sizes", "paired", "unread", "break_even", "costs",
    "left_out",
)  # fmt: skip
"""Kinds of all tables."""


def report(folder: Path, out: Path) -> None:
    """Read the runs below `folder`, write the report to `out`, print its tables in short.

    Raises:
        InputError: there is nothing to report on, or `out` cannot be written to.
    """
    with Workers() as workers:
        collection = collect(folder, workers)
        reading = read_answers(collection, collection.runs["id"], workers)
        summary = summarise(collection)
        tests, sizes = welch(summary), welch_over_sizes(summary)
        evens = break_evens(summary)
        answers, missing = reading()
        unlike = asked_unlike(collection.runs, answers)
        tests, sizes = (with_other_rows(pairs, answers, unlike) for pairs in (tests, sizes))
        evens = with_other_rows(evens, answers, unlike, sides=("ids", "ids_prompting"), domain="in_domain")
        runs = majority_of_runs(collection, answers)
        rates = majority(runs)
        with _writing(out):
            (out / "tables").mkdir(parents=True, exist_ok=True)
        run_rows = workers.begin(run_table, collection, runs, answers)
        with _writing(out):
            figures = [workers.begin(_draw, collection, rates, out, list(PICTURES)[place::2]) for place in range(2)]
        summary = beside(with_majority(summary, runs))
        pairs = mcnemar(tests, collection, answers)
        tables = all_tables(collection, summary, tests, sizes, pairs, evens, missing)
        frames = {
            "report": summary,
            "differences": tests,
            "sizes": sizes.drop(columns=["ids_a", "ids_b"]),
            "mcnemar": pairs,
            "break_even": evens,
            "left_out": pd.DataFrame(collection.left_out, columns=["record", "reason"]),
        }
        with _writing(out):
            for name, frame in frames.items():
                _write_csv(frame, out / f"{name}.csv")
            _write(out / "report.md", "# Report\n\n" + "\n".join(markdown(table) for table in tables))
            kinds = {name: list(group) for name, group in groupby(tables, key=lambda table: table.name.split("-")[0])}
            for name, group in kinds.items():
                _write(out / "tables" / f"{name}.tex", "\n".join(map(latex, group)))
            own = [table for table in tables if table.name != "results"]  # these the page makes itself, of all selections
            drawn = []
            for figure in figures:
                sheets, spoilt_logs = figure()
                drawn += sheets
                collection.spoilt_logs.update(spoilt_logs)
            write_page(collection, own, evens, unlike, drawn, out)
            _write_csv(run_rows(), out / "runs.csv")
            _tidy(out, [*(path for sheet in drawn for path in sheet.files), *(out / "tables" / f"{name}.tex" for name in kinds)])
    show(tables, out, collection.spoilt_logs)


def _draw(collection: Collection, rates: pd.DataFrame, out: Path, names: Sequence[str]) -> tuple[list[Drawn], dict[str, str]]:
    """`draw_all`, and the logs that it found spoilt, which another process has to tell this one."""
    return draw_all(collection, rates, out, names), collection.spoilt_logs


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror or error}); choose another folder") from error


def _tidy(out: Path, written: Sequence[Path]) -> None:
    """Remove what an earlier report wrote to the folder and this one has nothing to say in: it would look like a part of it."""
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
    missing: Sequence[tuple[str, str]] = (),
) -> list[Table]:
    """The tables that have rows, in the order of the report."""
    groups = contents.groups(summary)
    found = [
        contents.results(groups, collection.shared),
        contents.checkpoints(groups),
        contents.distillation(groups),
        contents.published(summary),
        comparisons.differences(tests),
        *comparisons.over_sizes(sizes),
        comparisons.paired(pairs),
        contents.unread(missing),
        comparisons.break_even_table(evens),
        contents.costs(groups),
        contents.left_out(collection),
    ]
    return [table for table in found if table.rows]


def show(tables: Sequence[Table], out: Path, spoilt_logs: Mapping[str, str]) -> None:
    """Print the tables in short, where the whole is, and which training logs are not whole in the curves."""
    console = plain_console()
    for table in tables:
        if table.name in PRINTED:
            lines, below = terminal(table, shown(out / "report.md"))
            console.print(lines)
            for line in below:
                console.print(line, soft_wrap=True)
    for run, reason in spoilt_logs.items():
        console.print(f"train_log.jsonl of {run}: {reason}", soft_wrap=True)
    console.print("beside it: report.md, *.csv, tables/*.tex, figures as *.png and *.pdf", soft_wrap=True)
    console.print(f"report: {shown(out)}/report.html", soft_wrap=True)


def run_table(collection: Collection, runs: pd.DataFrame, answers: Mapping[tuple[str, str], Answers]) -> pd.DataFrame:
    """A row for each run: the columns of `runs`, those of `Collection.runs`; its pooled accuracies, as `<selection>_<set>`, each
    with the ends of its 95 % bootstrap interval as `..._low` and `..._high`; and F1 and Matthews' correlation of the final
    selection likewise."""
    scores = collection.scores[collection.scores["set"].isin(DOMAINS)]
    scores = scores.assign(**{name: scores[name].astype(object) for name in ("id", "selection", "set", "metric")})
    chosen = scores[scores["metric"] == "score_accuracy"]
    low, high = share_intervals(chosen["value"].clip(0, 1).to_numpy(), chosen["n"].to_numpy())
    parts = [chosen.assign(low=low, high=high, column=chosen["selection"] + "_" + chosen["set"])]
    for metric in TABLE_METRICS:
        of = scores[(scores["metric"] == metric) & scores["selection"].isin(FINAL)]
        of = of[[key in answers for key in zip(of["id"], of["set"], strict=True)]]
        if len(of):
            tables = [answers[key].confusion for key in zip(of["id"], of["set"], strict=True)]
            low, high = table_intervals(metric, tables, list(of["id"] + of["set"]))
            parts.append(of.assign(low=low, high=high, column=of["selection"] + "_" + of["set"] + "_" + metric))
    wide = pd.concat(parts).pivot(index="id", columns="column", values=["value", "low", "high"])
    names = sorted({column for _, column in wide.columns})
    wide = wide[[(part, name) for name in names for part in ("value", "low", "high")]]
    wide.columns = [name if part == "value" else f"{name}_{part}" for part, name in wide.columns]
    return runs.merge(wide, left_on="id", right_index=True, how="left")


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as csv; lists of ids with `;` between, which is in no id of ours. Several times as fast as `to_csv`."""
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
