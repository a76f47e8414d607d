"""Run records -> one table of runs, and its summary over seeds. Unfinished runs are listed, never averaged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from llmft.errors import InputError
from llmft.runs.show import pooled

SEEDS = ("seed", "data_seed")
METHOD_NAMES = {
    "icl": "in-context",
    "pbft": "fine-tuning",
    "pbft-lora": "fine-tuning, LoRA",
    "distill": "distillation",
    "distill-lora": "distillation, LoRA",
}
"""Methods as people say them, in the order of tables."""
FINAL_STAGE = {"icl": "icl"}
"""The stage a method is judged by, where it is not `after`."""


RETENTION = "retention"
"""The group of sets of other tasks."""


@dataclass(frozen=True)
class Collection:
    """`stages`: a row for each finished run and stage; `unfinished`: folders of runs without `DONE`."""

    stages: pd.DataFrame
    unfinished: list[Path]

    @property
    def checkpoints(self) -> pd.DataFrame:
        """The last and the best checkpoints of the runs that were evaluated during training."""
        chosen = self.stages[self.stages["stage"].str.startswith("best_")]
        return self.stages[self.stages["record"].isin(chosen["record"]) & self.stages["stage"].isin(["after", *chosen["stage"]])]

    @property
    def final(self) -> pd.DataFrame:
        """The stage of every run that its method is judged by."""
        wanted = self.stages["method"].map(lambda method: FINAL_STAGE.get(method, "after"))
        return self.stages[self.stages["stage"] == wanted]


def collect(folder: Path) -> Collection:
    """Read all run records below `folder`.

    Raises:
        InputError: there is no finished run.
    """
    configs = sorted(folder.rglob("config.json"))  # models have one as well, without draws
    runs = [path.parent for path in configs if "draws" in json.loads(path.read_text(encoding="utf-8"))]
    finished = [run for run in runs if (run / "DONE").is_file()]
    if not finished:
        raise InputError(f"{folder}: there is no finished run below this folder; name the --output_dir of some runs")
    rows = [row for run in finished for row in _rows(run)]
    stages = _name_differences(pd.DataFrame(rows))
    order = stages["method"].map({method: place for place, method in enumerate(METHOD_NAMES)})
    stages = stages.assign(order=order).sort_values(["task", "model", "order", "shots"], kind="stable").drop(columns="order")
    return Collection(stages.reset_index(drop=True), [run for run in runs if run not in finished])


def summarise(stages: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (n - 1) over the runs that differ in nothing but their seeds.

    Returns:
        A row for each setting and stage; `<column>_mean`, `<column>_sd`, the number of runs and their folders.
    """
    keys = ["task", "method", "model", "shots", "setting", "differs", "stage"]
    measured = [c for c in stages.columns if c not in keys and pd.api.types.is_numeric_dtype(stages[c]) and c not in SEEDS]
    grouped = stages.groupby(keys, sort=False, dropna=False)
    columns = {f"{c}_{how}": grouped[c].agg(function) for c in measured for how, function in (("mean", "mean"), ("sd", "std"))}
    summary = pd.DataFrame({**columns, "runs": grouped.size(), "records": grouped["record"].agg(list)})
    return summary.reset_index()


def _name_differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Add `differs`: the arguments by which settings differ that method, task, model and shots do not tell apart.

    A kind of context that was asked for is always named: no number of shots tells an instruction from a label.
    """

    def differences(group: pd.DataFrame) -> pd.Series:
        items = [set(map(str, given.items())) for given in group["given"]]
        shared = set.intersection(*items)
        pairs = [[(k, v) for k, v in given.items() if k == "context" or str((k, v)) not in shared] for given in group["given"]]
        return pd.Series([", ".join(f"{k}={v}" for k, v in found) for found in pairs], index=group.index)

    parts = [differences(group) for _, group in runs.groupby(["task", "method", "model", "shots"], sort=False)]
    return runs.drop(columns="given").assign(differs=pd.concat(parts))


def _rows(run: Path) -> list[dict[str, Any]]:
    config, metrics, cost = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "metrics", "cost"))
    arguments = {name: value for group in config["arguments"].values() for name, value in group.items()}
    phases, inside = cost["phases"], metrics["sets"]["in_domain"]
    row = {
        "record": str(run),
        "task": config["task"] + (f" {arguments['task_variant']}" if arguments.get("task_variant") else ""),
        "method": config["method"],
        "model": config["model"],
        "shots": len(config["draws"]["demonstrations"][0]),
        "setting": config["setting"],
        "given": {k: v for k, v in config["given"].items() if k not in SEEDS},
        **{name: arguments[name] for name in SEEDS},
        "cpu_s": cost["total"]["cpu_total_s"],
        "training_cpu_s": sum(p["cpu_total_s"] for p in phases if p["name"] in ("teacher", "train"))
        + cost.get("saved_by_teacher_cache", {}).get("cpu_s", 0),  # a teacher found in the cache was not free
        "peak_mib": cost["total"]["rss_peak_bytes"] / 2**20,
        "mean_mib": cost["total"]["rss_mean_bytes"] / 2**20,
    }
    rows = []
    for stage, sets in metrics["stages"].items():
        asked = ("during training", "after") if stage.startswith("best_") else (stage,)  # the best may be the last
        own = [name for group, names in metrics["sets"].items() if group != RETENTION for name in names]
        evaluation = [p for p in phases if p["name"] in {f"eval {name} {s}" for name in asked for s in own}]
        asked_about = sum(p["examples"] for p in evaluation)  # none where a cache had all answers
        rows.append(
            {
                **row,
                "stage": stage,
                **{group: pooled(sets, names) for group, names in metrics["sets"].items()},
                "tokens_per_query": metrics["tokens_per_query"].get(stage, metrics["tokens_per_query"].get("student")),
                "ms_per_query": 1000 * sum(p["cpu_total_s"] for p in evaluation) / asked_about if asked_about else None,
                **({f"gap_{k}": v for k, v in metrics.get("gap_recovered", {}).items()} if stage == "after" else {}),
                **({f"change_{k}": v for k, v in metrics.get("retention_change", {}).items()} if stage == "after" else {}),
                **{
                    name: sum(values[s] * sets[s]["n"] for s in inside) / sum(sets[s]["n"] for s in inside)
                    for name in ("kl", "agreement")
                    if (values := metrics.get(name, {}).get(stage))
                },
            }
        )
    return rows
