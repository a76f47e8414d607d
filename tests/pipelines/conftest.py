"""Runs of the pipelines, in this process, on the embedded world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from llmft.cost.phases import key_of
from llmft.pipelines import compose, distill, fine_tune, in_context, self_study

IN_DOMAIN = ("--eval_task_name", "none")
"""For runs in which the number of scored sets does not matter: scoring seven takes most of a short run of the embedded worlds."""
MAIN = {"eval.py": in_context.main, "ft.py": fine_tune.main, "distill.py": distill.main, "self_study": self_study.main}
MAIN["compose"] = compose.main


@dataclass(frozen=True)
class Record:
    """A run's folder, read."""

    path: Path

    def json(self, name: str) -> Any:
        return json.loads((self.path / f"{name}.json").read_text())

    @property
    def metrics(self) -> Any:
        return self.json("metrics")

    @property
    def phases(self) -> dict[str, Any]:
        """The phases of its costs, by kind, or of evaluations by `<kind> <stage> <set>`."""
        phases = self.json("cost")["phases"]
        by_key = {" ".join(filter(None, key_of(phase))): phase for phase in phases}
        assert len(by_key) == len(phases)
        return by_key

    @property
    def predictions(self) -> pd.DataFrame:
        return pd.read_parquet(self.path / "predictions.parquet")


def last_wins(arguments: Sequence[Any], *, without: str = "") -> list[str]:
    """The command line without arguments that a test overrides, or this one."""
    groups: dict[str, list[str]] = {}
    for word in map(str, arguments):
        if word.startswith("--"):
            flag = word
            groups[flag] = []
        groups[flag].append(word)
    return [word for flag, group in groups.items() for word in group if flag != without]


def run(script: str, output_dir: Path, *arguments: Any) -> Record:
    """Run an entry script's `main`, on the toy task unless another is named; its record must be the only new one."""
    before = set(output_dir.rglob("DONE"))
    unread = "--num_shots" if script == "ft.py" and "demonstrations" not in arguments else ""  # of flags that tests share
    MAIN[script](last_wins(["--task", "toy", "--output_dir", output_dir, "--use_cpu", *arguments], without=unread))
    (done,) = set(output_dir.rglob("DONE")) - before
    return Record(done.parent)
