"""Made-up run records in the form of real ones, any number of them: `python -m tests.report.synthetic FOLDER --runs 5000`.

They are written by hand and not by the pipelines' `RunRecord`, which syncs each file to the disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmft.report.statistics.bootstrap import OF_TABLES
from llmft.runs.store import short_hash

SIZES = {"125m": 125e6, "350m": 331e6, "1.3b": 1.3e9, "2.7b": 2.7e9, "6.7b": 6.7e9, "13b": 13e9, "30b": 30e9}
MODELS = {f"opt-{name}": size for name, size in SIZES.items()}
TASKS = {
    "rte": {"in_domain": ["rte"], "out_of_domain": ["hans-lexical_overlap-entailment", "hans-lexical_overlap-contradiction"]},
    "qqp": {"in_domain": ["qqp"], "out_of_domain": ["paws-qqp"]},
}
PATTERNS = ("minimal", "gpt-3", "eval-harness")
TRAINED = ("pbft", "pbft-lora", "vanilla", "distill", "distill-lora")
SHOTS = (2, 16, 32, 64)
ROWS = {"rte": 277, "qqp": 1000, "paws-qqp": 677, "notes": 30, "notes-reverse": 12, "notes-unanswerable": 8}
SKILL = {"icl": 0.62, "pbft": 0.64, "pbft-lora": 0.63, "vanilla": 0.58, "distill": 0.61, "distill-lora": 0.61}
QUERY, SHOT = 60, 65
"""Tokens of a query and of a demonstration."""


@dataclass(frozen=True)
class Made:
    """What tells one run from the others."""

    task: str = "rte"
    model: str = "opt-125m"
    method: str = "icl"
    shots: int = 16
    pattern: str = "minimal"
    seed: int = 0
    done: bool = True
    headline: str = "score_accuracy"
    with_context: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        if self.method == "icl":
            return ("icl",)
        if self.method.startswith("distill"):
            return "teacher", "before", "after", *(("after_with_context",) if self.with_context else ())
        return "before", "after", "best_in_domain", "best_out_of_domain"

    @property
    def sets(self) -> dict[str, list[str]]:
        return TASKS[self.task]

    @property
    def arguments(self) -> dict[str, Any]:
        """Those that are not of all runs, and not at their default."""
        return {}

    @property
    def defaults(self) -> dict[str, Any]:
        """Arguments at a default of their task's own."""
        return {}

    @property
    def context_tokens(self) -> int:
        return SHOT * self.shots

    @property
    def measured(self) -> dict[str, Any]:
        """What `metrics.json` has beside what all runs have."""
        return {}

    def answers(self, stage: str, name: str, size: int, rng: np.random.Generator) -> tuple[dict[str, Any], pd.DataFrame]:
        """Metrics and predictions of a set."""
        return _answers(self, stage, name, size, rng)


def designs() -> Iterator[Made]:
    """Runs as the paper's sweeps make them, seed by seed: in-context learning in all patterns, the trained methods in one. One
    in a hundred is not finished."""
    number = itertools.count()
    for seed, task, model in itertools.product(range(1000), TASKS, MODELS):
        for shots, pattern in itertools.product((0, *SHOTS), PATTERNS):
            yield Made(task, model, "icl", shots, pattern, seed, next(number) % 100 != 99)
        for shots, method in itertools.product(SHOTS, TRAINED):
            yield Made(task, model, method, shots, "minimal", seed, next(number) % 100 != 99)


def write(folder: Path, made: Iterable[Made], *, hans_rows: int = 500, version: int = 5) -> dict[str, Made]:
    """Write the records; returns the runs by their folders below `folder`.

    Args:
        hans_rows: evaluation rows of each HANS set.
        version: of the records' form, 3, 4 or 5.
    """
    records = {}
    for run in made:
        record = f"{run.method}/{run.task}/{run.model}/{short_hash(dataclasses.astuple(run))}"
        _write(folder / record, run, hans_rows)
        if version < 5 and run.done:
            _age(folder / record, version)
        records[record] = run
    return records


DEFAULTS = {"Defaults": {f"argument_{number}": None for number in range(200)}}
"""For a config as long as a real one."""


def _write(path: Path, run: Made, hans_rows: int) -> None:
    rng = np.random.default_rng(list(repr(run).encode()))
    path.mkdir(parents=True, exist_ok=True)
    sets = run.sets
    sizes = {name: ROWS.get(name, hans_rows) for group in sets.values() for name in group}
    distilled = run.method.startswith("distill")
    given = {"num_shots": run.shots, "pattern_name": run.pattern, "data_seed": run.seed, "seed": run.seed, **run.arguments}
    trained = rng.integers(2000, size=256 if distilled else run.shots).tolist() if run.method != "icl" else []
    trained = [f"notes-{run.seed}"] if run.arguments.get("train_on") == "document" else trained
    shown = rng.integers(2000, size=run.shots).tolist() if run.method == "icl" or distilled else []
    arguments = {**DEFAULTS, "Own": {**run.defaults, **given, "task_variant": None}}
    config = {
        "method": run.method,
        "task": run.task,
        "task_version": 2,
        "model": run.model,
        "setting": short_hash(dataclasses.astuple(dataclasses.replace(run, seed=0, done=True))),
        "given": given,
        "arguments": arguments,
        "data_fingerprints": {name: f"{run.task} fingerprint" for name in sizes},
        "draws": {
            "demonstrations": [shown],
            "train_rows": trained,
            "eval_rows": {name: list(range(size)) for name, size in sizes.items()},
        },
        "environment": {"python": "3.12", "packages": {}, "git_commit": "0" * 40, "git_dirty": False, "command": ["x"] * 30},
    }
    (path / "config.json").write_text(json.dumps(config, indent=2))
    if not run.done:
        return
    stages, frames = {}, []
    for stage in run.stages:
        stages[stage] = {}
        for name, size in sizes.items():
            stages[stage][name], frame = run.answers(stage, name, size, rng)
            frames.append(frame)
    pd.concat(frames, ignore_index=True).to_parquet(path / "predictions.parquet")
    prompt = QUERY + run.context_tokens
    metrics = {"headline": {"name": run.headline, "higher_is_better": run.headline != "mse"}, "stages": stages, "sets": sets}
    metrics |= {"tokens_per_query": {"icl": prompt} if run.method == "icl" else {"student": QUERY}}
    metrics |= run.measured
    if distilled:
        metrics["tokens_per_query"]["teacher"] = prompt
        metrics["kl"] = {stage: dict.fromkeys(sizes, 0.1) for stage in ("before", "after")}
        metrics["agreement"] = {stage: dict.fromkeys(sizes, 0.9) for stage in ("before", "after")}
        metrics["gap_recovered"] = {"in_domain": 0.9, "out_of_domain": None}
    if "best_in_domain" in stages:
        metrics["selection"] = {
            stage: {"step": 10, "epoch": 1.0, "selected_on_evaluation_set": stage != "after"} for stage in run.stages[1:]
        }
    if run.method != "icl":
        (path / "train_log.jsonl").write_text(
            "".join(f"{json.dumps(entry)}\n" for entry in _log(rng, sets["in_domain"] if distilled else ()))
        )
    (path / "metrics.json").write_text(json.dumps(metrics, indent=2))
    (path / "cost.json").write_text(json.dumps(_costs(run, sizes, rng), indent=2))
    (path / "DONE").touch()


def _answers(run: Made, stage: str, name: str, size: int, rng: np.random.Generator) -> tuple[dict[str, Any], pd.DataFrame]:
    skill = 0.5 if stage == "before" else SKILL[run.method] + 0.02 * list(MODELS).index(run.model) + rng.normal(0, 0.03)
    columns = {"stage": stage, "set": name, "idx": np.arange(size)}
    counts = {"n": size, "n_asked": size, "n_shortened": 0}
    if run.headline != "score_accuracy":
        return _graded(run.headline, skill, columns, counts, rng)
    labels = np.full(size, int(name.endswith("contradiction"))) if name.startswith("hans") else np.arange(size) % 2
    right = rng.random(size) < min(max(skill, 0.05), 0.95)
    predictions = np.where(right, labels, 1 - labels)
    logprobs = np.log(np.where(predictions[:, None] == [[0, 1]], 0.8, 0.2))
    accuracy = float(right.mean())
    metrics = {"accuracy": accuracy, "score_accuracy": accuracy, "loss": 0.7, "ece": 0.1, **counts}
    if run.task == "qqp":
        metrics["f1"] = float(OF_TABLES["f1"](np.bincount(2 * labels + predictions, minlength=4).reshape(2, 2)))
    columns |= {"target": labels, "prediction": predictions, "score": right.astype(float)}
    return metrics, pd.DataFrame({**columns, "label_logprobs": list(logprobs), "token_logprobs": list(logprobs)})


def _graded(
    headline: str, skill: float, columns: dict[str, Any], counts: dict[str, Any], rng: np.random.Generator
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Text answers with F1 of their tokens, or numbers with their squared error; their scores are not only 0 or 1."""
    size = counts["n"]
    if headline == "mse":
        targets = np.arange(size) % 7 - 3.0
        predictions = targets + rng.normal(0, 2.5 - 2 * skill, size)
        scores = (targets - predictions) ** 2
    else:
        targets = np.array([f"answer {number}" for number in range(size)])
        scores = rng.choice([0, 0.25, 0.5, 0.8, 1], size, p=[0.4 - skill / 4, 0.2, 0.1, 0.15, 0.15 + skill / 4])
        predictions = np.where(scores == 1, targets, "another")
    frame = pd.DataFrame({**columns, "target": targets, "prediction": predictions, "score": scores})
    return {headline: float(scores.mean()), "nll": 1.5, **counts}, frame


def _log(rng: np.random.Generator, against_teacher: Iterable[str]) -> list[dict[str, Any]]:
    steps = range(10, 101, 10)
    losses = np.exp(-np.arange(1, 11) / 4) * rng.uniform(0.8, 1.2, 10)
    log = [{"loss": float(loss), "learning_rate": 1e-5, "step": step} for step, loss in zip(steps, losses, strict=True)]
    log += [{f"eval_{name}_kl": math.exp(-step / 50), "step": step} for name in against_teacher for step in (50, 100)]
    return [*log, {"train_runtime": 1.0, "train_loss": float(losses.mean()), "step": 100}]


def _costs(run: Made, sizes: dict[str, int], rng: np.random.Generator) -> dict[str, Any]:
    weights = int(MODELS[run.model])

    def phase(
        kind: str, examples: int = 0, tokens: int = 0, factor: int = 2, stage: str | None = None, name: str | None = None
    ) -> dict[str, Any]:
        cpu = (0.001 * tokens + 1) * rng.uniform(0.9, 1.1)
        work = {"examples": examples, "tokens": tokens, "padding_tokens": 0, "flops": factor * weights * tokens}
        memory = {"rss_peak_bytes": 4 * weights, "rss_mean_bytes": 3 * weights, "gpu_peak_bytes": None, "gpu_mean_bytes": None}
        times = {"cpu_user_s": 0.9 * cpu, "cpu_system_s": 0.1 * cpu, "cpu_total_s": cpu, "wall_s": cpu}
        return {"kind": kind, "stage": stage, "set": name, **times, **memory, **work}

    phases = [phase("load")]
    if run.method.startswith("distill"):
        phases.append(phase("teacher", 256, 256 * QUERY + run.context_tokens))
    asked = [stage for stage in run.stages if not stage.startswith("best")]
    asked += ["during_training"] if "best_in_domain" in run.stages else []
    for stage, (name, size) in itertools.product(asked, sizes.items()):
        context = run.context_tokens if stage in ("icl", "teacher") else 0
        phases.append(phase("evaluate", size, size * QUERY + context, stage=stage, name=name))
    if run.method != "icl":
        phases.append(phase("train", 320, 320 * QUERY, 6))
    saved = {}
    if run.method.startswith("distill") and run.seed % 2:  # its teacher's answers to the queries were in the cache
        (teacher,) = (phase for phase in phases if phase["kind"] == "teacher")
        phases.remove(teacher)
        costs = {"cpu_s": teacher["cpu_total_s"], **{key: teacher[key] for key in ("examples", "tokens", "flops")}}
        saved = {**costs, "phases": [{**{key: teacher[key] for key in ("kind", "stage", "set")}, **costs}]}
    summed = ("cpu_user_s", "cpu_system_s", "cpu_total_s", "wall_s", "examples", "tokens", "padding_tokens", "flops")
    total = {key: value for key, value in phases[0].items() if key not in ("kind", "stage", "set")}
    total |= {key: sum(p[key] for p in phases) for key in summed}
    return {"phases": phases, "total": total, "ranks": [total], "resumed_from": None, "saved_by_teacher_cache": saved}


def _age(record: Path, version: int) -> None:
    """Bring a record into an older form."""
    metrics, cost = (json.loads((record / f"{name}.json").read_text()) for name in ("metrics", "cost"))
    del metrics["headline"]
    if "after_with_context" in metrics["stages"]:
        metrics["after_with_context"] = metrics["stages"].pop("after_with_context")
    (record / "metrics.json").write_text(json.dumps(metrics))
    named = [(_old_name(phase), phase) for phase in cost["phases"]]
    cost["phases"] = [{"name": name, **phase} for name, phase in named]
    if saved := cost["saved_by_teacher_cache"]:
        phases = {_old_name(phase): phase for phase in saved.pop("phases")}
        saved |= {"phases": phases} if version == 4 else {}
    (record / "cost.json").write_text(json.dumps(cost))
    table = pd.read_parquet(record / "predictions.parquet").drop(columns="score").rename(columns={"target": "label"})
    table[table["stage"] != "after_with_context"].to_parquet(record / "predictions.parquet")


def _old_name(phase: dict[str, Any]) -> str:
    """A phase's name before version 5; its fields are taken out."""
    kind, stage, name = (phase.pop(key) for key in ("kind", "stage", "set"))
    return kind if name is None else f"eval {stage.replace('_', ' ')} {name}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--hans_rows", type=int, default=500)
    flags = parser.parse_args()
    write(flags.folder, itertools.islice(designs(), flags.runs), hans_rows=flags.hans_rows)
