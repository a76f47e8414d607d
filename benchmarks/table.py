"""Results files as the tables in README.md, between its markers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bounds import BOUNDS, found_text
from llmft.runs.store import whole_file

BEGIN, END = "<!-- results: made by python -m benchmarks --write_readme -->", "<!-- end of results -->"


def tables(results: Mapping[str, Any]) -> str:
    """Markdown: what the numbers of a file were measured on, the bounds that it has numbers for, and all rows with their
    floors."""
    machine, tokens = results["machine"], results["parts"].get("in_context", {}).get("tokens")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{results['date']}, commit {results['commit']}: {machine['processor']}, {machine['cores']} cores, {machine['threads']} "
        f"threads (OMP_WAIT_POLICY={machine['omp_wait_policy']}), load {machine['load_at_start']:.2f} at the start; {versions}.",
    ]
    if tokens:
        lines[0] += f" The context has {tokens['context']} tokens, a query {tokens['query_mean']:.0f} (mean)."
    lines += ["", "| must show | limit | found (of the turns: median, least to greatest) | met |", "|---|---|---|---|"]
    for bound in results["bounds"]:
        if bound["met"] is not None:
            lines.append(f"| {bound['text']} | {bound['limit']} | {found_text(bound)} | {'yes' if bound['met'] else '**no**'} |")
    lines += ["", "| part | what | measured | floor | the floor is | times the floor |", "|---|---|---|---|---|---|"]
    lines += [_row(row) for row in all_rows(results)]
    return "\n".join(lines)


def all_rows(results: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The rows of all parts."""
    return (row for found in results["parts"].values() for row in found["rows"])


def write_readme(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables of results files, one after another, between the markers of the file, and say for which bounds none has
    numbers; everything else in it is kept."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"{path.name} lacks the markers {BEGIN} and {END}")
    measured = {bound["text"] for results in runs for bound in results["bounds"] if bound["met"] is not None}
    missing = [bound.text for bound in BOUNDS if bound.text not in measured]
    parts = [*map(tables, runs), *([f"Not measured: {'; '.join(missing)}."] if missing else [])]
    with whole_file(path) as aside:
        aside.write_text("\n\n".join([f"{head}{BEGIN}", *parts, f"{END}{tail}"]), encoding="utf-8")


def short(number: float) -> str:
    """Three digits, or a whole number."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _row(row: Mapping[str, Any]) -> str:
    unit = row["unit"]
    of = row["bound_by"]
    if "floor_flops" in row:
        work = f"{row['floor_flops'] / 1e9:.3g} GFLOP" if of == "FLOPs" else f"{row['floor_bytes'] / 2**20:.3g} MiB"
        of = f"{work} at the measured rate"
    value, floor = (f"{short(number)} {unit}" for number in (row["value"], row["floor"]))
    return f"| {row['part']} | {row['name']} | {value} | {floor} | {of} | {row['times_floor']:.3g} |"
