"""One run as a short table, from its record alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console  # not when the run is shown: its record has been written by then, without what this costs
from rich.table import Table


def pooled(metrics: Mapping[str, Mapping[str, float]], sets: Sequence[str], name: str) -> float | None:
    """A metric of one stage over several sets taken together, every row that has it counting the same.

    None for no sets, and where the stage did not score one of them.
    """
    if not all(s in metrics for s in sets):
        return None
    sizes = [rows_of(metrics[s], name) for s in sets]
    return sum(metrics[s][name] * size for s, size in zip(sets, sizes, strict=True)) / sum(sizes) if sum(sizes) else None


def rows_of(metrics: Mapping[str, float], name: str) -> float:
    """How many rows of a set a metric is over: all, but where the record says of how many it is known."""
    return metrics.get(f"n_{name}", metrics["n"])


def is_count(name: str, metrics: Collection[str]) -> bool:
    """Whether this name, of those that a record has of a set, is that of a number of rows and not of a metric."""
    return name in ("n", "n_asked", "n_shortened") or name.removeprefix("n_") in {*metrics} - {name}


OF_LABELS = "score_accuracy"
"""What other tasks are judged by, whose answers are labels."""
RETENTION = "retention"
"""The group of the sets of other tasks."""
MOST_PARTS = 12
"""Of more documents, or categories, a run does not show the scores of each."""
WRONG_ANSWER = "wrong_answer"
"""The share of answers in which a known wrong one stands, of rows of which one is known."""
SELECTED = "* checkpoint selected on this evaluation set"
"""Legend of the star behind values for which `selected_on` holds."""


ELSEWHERE = {
    "off_context_kl": ("KL from the model before", ".3f"),
    "contamination": ("names of the context", ".0%"),
    "abstention": ("abstains where there is no answer", ".0%"),
    "false_abstention": ("and where there is one", ".0%"),
}
"""Metrics of what a run did to answers that have nothing to do with its context -> what people call them, and their form."""


def elsewhere_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What a record says of unrelated prompts and of questions without an answer: a line for each stage that it was asked at."""
    by_stage: dict[str, list[str]] = {}
    for metric, (name, form) in ELSEWHERE.items() if "elsewhere" in metrics else ():
        for stage, of_sets in metrics.get(metric, {}).items():
            by_stage.setdefault(stage, []).append(f"{name} {format(*of_sets.values(), form)}")
    return [f"elsewhere, {stage}: {', '.join(by_stage[stage])}" for stage in ("before", "teacher", "after") if stage in by_stage]


def judged_by(group: str, headline: str) -> str:
    """The metric that a group of sets is judged by: the run's headline, or that of labels."""
    return OF_LABELS if group == RETENTION else headline


def column_name(group: str, headline: str) -> str:
    """What a table of the headline calls a group of sets: it says so where those are judged by another metric."""
    metric = judged_by(group, headline)
    return group.replace("_", "-") + ("" if metric == headline else f": {metric}")


def selected_on(stage: str, domain: str) -> bool:
    """Whether the stage's checkpoint was picked for the headline on the sets of this domain."""
    return stage == f"best_{domain}"


def part_names(stages: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str) -> list[str]:
    """The documents, or categories, of which any set of any stage has this metric."""
    return sorted({name for sets in stages.values() for parts in sets.values() for name in parts if metric in parts[name]})


def part_table(
    stages: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], names: Sequence[str], metric: str, part: str
) -> Table:
    """A metric of each stage by document or category, over all sets that have rows of it."""
    table = Table(title=f"{metric} by {part}", title_justify="left")
    for name in ("stage", *names):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, sets in stages.items():
        shares = [{of: parts[name] for of, parts in sets.items() if metric in parts.get(name, ())} for name in names]
        values = [pooled(one, [*one], metric) for one in shares]
        table.add_row(stage, *("-" if value is None else f"{value:.3f}" for value in values))
    return table


def plain_console() -> Console:
    """A console that prints names, patterns and paths as they are, also `[INST]` and `:tada:`; wide where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 190, highlight=False, markup=False, emoji=False)


def show_run(path: Path) -> None:
    """Print the headline of each stage, costs and place of the run at `path`."""
    config, metrics, cost = (json.loads((path / f"{name}.json").read_text()) for name in ("config", "metrics", "cost"))
    headline = metrics["headline"]["name"]
    table = Table(title=f"{config['method']} on {config['task']} with {config['model']}: {headline}", title_justify="left")
    table.add_column("stage")
    groups = {name: sets for name, sets in metrics["sets"].items() if sets}
    for name in groups:
        table.add_column(column_name(name, headline), justify="right")
    selection = metrics.get("selection", {})
    for stage, scores in metrics["stages"].items():
        name = f"{stage} (step {selection[stage]['step']})" if stage in selection else stage
        stars = {domain: "*" if selected_on(stage, domain) else "" for domain in groups}
        values = {domain: pooled(scores, sets, judged_by(domain, headline)) for domain, sets in groups.items()}
        table.add_row(name, *("-" if value is None else f"{value:.3f}{stars[domain]}" for domain, value in values.items()))
    console = plain_console()
    console.print(table)
    if any(entry["selected_on_evaluation_set"] for entry in selection.values()):
        console.print(SELECTED)
    for key, part in (("documents", "document"), ("categories", "category")):
        parts = metrics.get(key, {})
        for metric in (headline, WRONG_ANSWER):
            if 0 < len(names := part_names(parts, metric)) <= MOST_PARTS:
                console.print(part_table(parts, names, metric, part))
    for name, gap in metrics.get("gap_recovered", {}).items():
        console.print(f"gap recovered {name.replace('_', '-')}: " + ("no gap" if gap is None else f"{gap:.1%}"))
    for line in elsewhere_lines(metrics):
        console.print(line)
    tokens = ", ".join(f"{who} {count:.1f}" for who, count in metrics["tokens_per_query"].items())
    total = cost["total"]
    console.print(f"tokens per query: {tokens}")
    console.print(
        f"CPU {total['cpu_total_s']:.1f} s ({total['cpu_user_s']:.1f} user, {total['cpu_system_s']:.1f} system), "
        f"memory {total['rss_peak_bytes'] / 2**20:.0f} MiB peak, {total['rss_mean_bytes'] / 2**20:.0f} MiB mean"
    )
    console.print(f"record: {path}", soft_wrap=True)
