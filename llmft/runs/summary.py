"""A short table of one run, made only from its record."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console  # imported up front: when the run is shown, its record and costs have already been written
from rich.table import Table


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run's flags, from its `config.json`."""
    return {name: value for group in config["arguments"].values() for name, value in group.items()}


def pooled(metrics: Mapping[str, Mapping[str, float]], sets: Sequence[str], name: str) -> float | None:
    """A metric of one stage pooled over several sets; every row that has it gets the same weight.

    None for no sets, or if the stage did not score one of them.
    """
    if not all(s in metrics for s in sets):
        return None
    sizes = [rows_of(metrics[s], name) for s in sets]
    return sum(metrics[s][name] * size for s, size in zip(sets, sizes, strict=True)) / sum(sizes) if sum(sizes) else None


def rows_of(metrics: Mapping[str, float], name: str) -> float:
    """The number of rows of a set that a metric covers: all, unless the record has a count for it."""
    return metrics.get(f"n_{name}", metrics["n"])


def is_count(name: str, metrics: Collection[str]) -> bool:
    """Whether a name in a set's part of a record is that of a number of rows, not of a metric."""
    return name in ("n", "n_asked", "n_shortened") or name.removeprefix("n_") in {*metrics} - {name}


OF_LABELS = "score_accuracy"
"""The metric for other tasks, whose answers are labels."""
RETENTION = "retention"
"""The group of the sets of other tasks."""
MOST_PARTS = 12
"""If there are more documents or categories than this, a run does not show a score for each."""
WRONG_ANSWER = "wrong_answer"
"""The share of answers that contain the known wrong answer, among rows that have one."""
SELECTED = "* checkpoint selected on this evaluation set"
"""Legend of the star after values for which `selected_on` holds."""


OFF_CONTEXT = {
    "off_context_kl": ("KL from the original model", ".3f"),
    "contamination": ("mentions names of the context", ".0%"),
    "abstention": ("abstains if there is no answer", ".0%"),
    "false_abstention": ("abstains if there is one", ".0%"),
}
"""Metrics of a run's effect on what its context does not answer -> their names for users, and their format."""


def elsewhere_lines(metrics: Mapping[str, Any]) -> list[str]:
    """A record's scores on unrelated prompts and on questions without an answer: a line for each stage that measured them."""
    by_stage: dict[str, list[str]] = {}
    for metric, (name, form) in OFF_CONTEXT.items() if "elsewhere" in metrics else ():
        for stage, of_sets in metrics.get(metric, {}).items():
            by_stage.setdefault(stage, []).append(f"{name} {format(*of_sets.values(), form)}")
    return [f"elsewhere, {stage}: {', '.join(by_stage[stage])}" for stage in ("before", "teacher", "after") if stage in by_stage]


def judged_by(group: str, headline: str) -> str:
    """The metric that a group of sets is judged by: the run's headline metric, or the one for labels."""
    return OF_LABELS if group == RETENTION else headline


def column_name(group: str, headline: str) -> str:
    """The name of a group of sets in a table of the headline metric; it mentions the metric if that is another one."""
    metric = judged_by(group, headline)
    return group.replace("_", "-") + ("" if metric == headline else f": {metric}")


def selected_on(stage: str, domain: str) -> bool:
    """Whether the stage's checkpoint was selected by the headline metric on the sets of this domain."""
    return stage == f"best_{domain}"


def part_names(stages: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str) -> list[str]:
    """The documents, or categories, for which any set of any stage has this metric."""
    return sorted({name for sets in stages.values() for parts in sets.values() for name in parts if metric in parts[name]})


def part_table(
    stages: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], names: Sequence[str], metric: str, part: str
) -> Table:
    """A metric of each stage by document or category, over all sets that have such rows."""
    table = Table(title=f"{metric} by {part}", title_justify="left")
    for name in ("stage", *names):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, sets in stages.items():
        shares = [{of: parts[name] for of, parts in sets.items() if metric in parts.get(name, ())} for name in names]
        values = [pooled(one, [*one], metric) for one in shares]
        table.add_row(stage, *("-" if value is None else f"{value:.3f}" for value in values))
    return table


def plain_console() -> Console:
    """A console that prints names, patterns and paths verbatim, even `[INST]` and `:tada:`; wide if it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 190, highlight=False, markup=False, emoji=False)


def show_run(path: Path) -> None:
    """Print the headline metric of each stage, the costs and the location of the run at `path`."""
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
