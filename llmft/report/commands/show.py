"""`python -m llmft.report show RUN [--folder FOLDER] [--examples N]`: the whole record of one run, for a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.report.commands.examples import examples_of, print_examples
from llmft.report.commands.one_run import Run, find_run, first_values, four_digits, table_of, understood
from llmft.report.tables.table import KIB, MIB
from llmft.runs.finished import OUTPUT_DIR
from llmft.runs.summary import elsewhere_lines, is_count, plain_console

if TYPE_CHECKING:
    from rich.table import Table


def main(argv: Sequence[str]) -> None:
    """Print arguments, draws, metrics, costs and files of a run.

    Raises:
        InputError: there is no such finished run, its record cannot be understood, or it has no examples.
    """
    parser = argparse.ArgumentParser(prog="python -m llmft.report show", description="One run's record.")
    parser.add_argument("run", help="a run's folder, or the beginning of its name")
    parser.add_argument("--folder", type=Path, default=Path(OUTPUT_DIR), help="where to search for names; default: logfiles")
    parser.add_argument("--examples", type=int, metavar="N", help="also N of its text answers, those that changed first")
    arguments = parser.parse_args(argv)
    run = find_run(arguments.run, arguments.folder)

    examples = examples_of(run, arguments.examples) if arguments.examples is not None else None
    with understood(run):
        tables = (arguments_table(run), draws_table(run), metrics_table(run), costs_table(run))
        lines = remarks(run)
    console = plain_console()
    console.print(run.title, style="bold")
    for table in tables:
        console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)
    if examples is not None:
        print_examples(console, examples, run.metrics["headline"]["name"])


def arguments_table(run: Run) -> Table:
    """The arguments that differ from their default and can change the result."""
    given = run.config["given"] or {"(all)": "at their default"}
    return table_of("Arguments", ("name", "value"), [(name, str(value)) for name, value in given.items()], left=2)


def draws_table(run: Run) -> Table:
    """The idx of the drawn rows."""
    draws = run.config["draws"]
    rows = {f"demonstrations {place}": rows for place, rows in enumerate(draws["demonstrations"])}
    rows |= {"training rows": draws["train_rows"], **draws["eval_rows"]}
    return table_of("Draws (idx)", ("of", "rows"), [(name, first_values(idx)) for name, idx in rows.items() if idx], left=2)


def metrics_table(run: Run) -> Table:
    """Every metric of every stage and set."""
    stages, majority = run.metrics["stages"], run.metrics.get("majority", {})
    names = list(dict.fromkeys(name for sets in stages.values() for values in sets.values() for name in values))
    names = [name for name in (*names, *(["majority"] if majority else [])) if name == "n" or not is_count(name, names)]
    rows = [
        (stage, name, *(four_digits({**values, "majority": majority.get(name)}.get(metric)) for metric in names))
        for stage, sets in stages.items()
        for name, values in sets.items()
    ]
    return table_of("Metrics", ("stage", "set", *names), rows, left=2)


COSTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "CPU s": lambda phase: f"{phase['cpu_total_s']:.2f}",
    "user": lambda phase: f"{phase['cpu_user_s']:.2f}",
    "system": lambda phase: f"{phase['cpu_system_s']:.2f}",
    "wall s": lambda phase: f"{phase['wall_s']:.2f}",
    "RSS MiB peak": lambda phase: _mib(phase.get("rss_peak_bytes")),
    "mean": lambda phase: _mib(phase.get("rss_mean_bytes")),
    "PSS mean": lambda phase: _mib(phase.get("pss_mean_bytes")),
    "GPU MiB peak": lambda phase: _mib(phase.get("gpu_peak_bytes")),
    "reserved": lambda phase: _mib(phase.get("gpu_reserved_peak_bytes")),
    "examples": lambda phase: f"{phase['examples']:,}",
    "tokens": lambda phase: f"{phase['tokens']:,}",
    "padding": lambda phase: f"{phase['padding_tokens']:,}",
    "GFLOP": lambda phase: f"{phase['flops'] / 1e9:,.1f}",
    "counted": lambda phase: "-" if phase.get("flops_counted") is None else f"{phase['flops_counted'] / 1e9:,.1f}",
}


def costs_table(run: Run) -> Table:
    """The costs of every phase and in total; columns without any value are left out."""
    phases = [*run.cost["phases"], {"kind": "total", **run.cost["total"]}]
    columns = {"phase": [" ".join(filter(None, (phase.get(key) for key in ("kind", "stage", "set")))) for phase in phases]}
    columns |= {name: [cell(phase) for phase in phases] for name, cell in COSTS.items()}
    columns = {name: cells for name, cells in columns.items() if not set(cells) <= {"-", "0"}}
    return table_of("Costs", list(columns), list(zip(*columns.values(), strict=True)))


def remarks(run: Run) -> list[str]:
    """Lines that need no table: selection, savings by the cache, ranks, versions, files."""
    lines = [f"warning: {line}" for line in run.metrics.get("warnings", [])]
    for stage, entry in run.metrics.get("selection", {}).items():
        marked = " (selected on this evaluation set)" if entry["selected_on_evaluation_set"] else ""
        lines.append(f"{stage}: step {entry['step']}{marked}")
    for name, gap in run.metrics.get("gap_recovered", {}).items():
        lines.append(f"gap recovered {name.replace('_', '-')}: " + ("no gap" if gap is None else f"{gap:.1%}"))
    lines += elsewhere_lines(run.metrics)
    for who, count in run.metrics.get("tokens_per_query", {}).items():
        kv_bytes = run.metrics.get("kv_bytes_per_query", {}).get(who)
        keys_and_values = "" if kv_bytes is None else f", {kv_bytes / KIB:,.1f} KiB of keys and values"
        lines.append(f"tokens per query, {who}: {count:.1f}{keys_and_values}")
    weights = run.metrics.get("weights", {})
    if "model" in weights:
        lines.append(f"weights: {weights['model']:,}, trained: {weights['trainable']:,}")
    saved = {name: value for name, value in run.cost["saved_by_teacher_cache"].items() if isinstance(value, int | float)}
    if saved:
        lines.append("saved by the teacher cache: " + ", ".join(f"{name} {four_digits(value)}" for name, value in saved.items()))
    ranks = run.cost.get("ranks", ())
    for place, rank in enumerate(ranks if len(ranks) > 1 else ()):
        lines.append(f"rank {place}: CPU {rank['cpu_total_s']:.2f} s, RSS {_mib(rank['rss_peak_bytes'])} MiB peak")
    if environment := run.config.get("environment"):
        lines.append(f"commit {environment['git_commit']}{' with changes' if environment['git_dirty'] else ''}")
        lines.append("versions: " + ", ".join(f"{name} {version}" for name, version in environment["packages"].items()))
        lines.append("command: " + " ".join(environment["command"]))
    files = sorted(path.name + ("/" if path.is_dir() else "") for path in run.path.iterdir())
    return [*lines, f"record: {run.path}: {', '.join(files)}"]


def _mib(size: float | None) -> str:
    return "-" if size is None else f"{size / MIB:.0f}"
