"""`python scripts/gap_by_epoch.py FOLDER`: gap recovered after each epoch of the distillations in FOLDER, as a markdown table.

A row is a setting, and a cell the mean over its runs, which differ in their seeds alone: in-domain / out-of-domain, and in
brackets the least of them. Read are runs with `--eval_strategy epoch`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from llmft.evaluation.labels import Labels
from llmft.evaluation.scores import Headline
from llmft.report.records.names import DOMAINS
from llmft.runs.summary import pooled


def gaps(metrics: dict[str, Any]) -> Iterator[dict[str, float | None]]:
    """Domain -> gap recovered after each epoch."""
    stages, headline = metrics["stages"], Labels.headline  # before version 5 all records were for labels
    if "headline" in metrics:
        headline = Headline(**metrics["headline"])
    for evaluation in metrics["evaluations"]:
        yield {
            domain: headline.gap_recovered(
                *(pooled(scores, sets, headline.name) for scores in (stages["teacher"], stages["before"], evaluation["sets"]))
            )
            for domain, sets in metrics["sets"].items()
            if sets and domain in DOMAINS  # other tasks have no teacher
        }


def cell(values: list[dict[str, float | None]]) -> str:
    """Mean and minimum gap of some runs; possibly none of them has reached that epoch."""
    domains = values[0] if values else ()
    columns = [[value[domain] for value in values if value[domain] is not None] for domain in domains]
    return " / ".join(f"{mean(column):.2f} ({min(column):.2f})" if column else "-" for column in columns) or "-"


def main(folder: str) -> None:
    """Print the table."""
    runs: dict[tuple[str, float, str], list[list[dict[str, float | None]]]] = defaultdict(list)
    for done in sorted(Path(folder).rglob("DONE")):
        config, metrics = (json.loads((done.parent / f"{name}.json").read_text()) for name in ("config", "metrics"))
        if "evaluations" in metrics and "teacher" in metrics["stages"]:
            rate = config["arguments"]["DistillationRunArguments"]["learning_rate"]
            runs[config["method"], rate, config["setting"]].append(list(gaps(metrics)))
    if not runs:
        sys.exit(f"error: {folder}: there is no finished distillation with --eval_strategy epoch in it; name another folder")
    epochs = range(max(len(run) for group in runs.values() for run in group))
    print("| method | rate | runs |", " | ".join(f"epoch {epoch + 1}" for epoch in epochs), "|")
    print("|---" * (3 + len(epochs)) + "|")
    for (method, rate, _), group in sorted(runs.items()):
        cells = [cell([run[epoch] for run in group if epoch < len(run)]) for epoch in epochs]
        print(f"| {method} | {rate:g} | {len(group)} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main(*sys.argv[1:])
