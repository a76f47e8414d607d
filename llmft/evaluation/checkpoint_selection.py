"""Evaluations during training, and the checkpoints they pick (Mosbach et al. 2023, sections 3 and 4: best in-domain, last,
best out-of-domain)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from llmft.evaluation.labels import HEADLINE, mean_kl, split_metrics
from llmft.evaluation.scorer import SplitScores
from llmft.runs.summary import pooled

LAST = "after"


@dataclass(frozen=True)
class Evaluation:
    """Scores of all evaluation sets after some steps of training."""

    step: int
    epoch: float
    scores: dict[str, SplitScores]


@dataclass
class Evaluations:
    """Every evaluation of a run as metrics; the scores of the last one and of the best.

    A best one is picked on the evaluation sets themselves, which only shows what training passed through. The model's start
    is no candidate. All ranks hold the same.

    Args:
        score: scores all sets with the model as it is; what that costs is counted under the stage it is given.
        domains: those a best one is picked for: `in_domain` and `out_of_domain` with their sets, or none.
        teacher: its scores of all sets, from which the divergence of each evaluation is reckoned; None where there is none.
    """

    score: Callable[[str], dict[str, SplitScores]]
    domains: Mapping[str, Sequence[str]]
    teacher: Mapping[str, SplitScores] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, Evaluation] = field(default_factory=dict)

    def evaluate(self, step: int, epoch: float, *, last: bool) -> dict[str, dict[str, Any]]:
        """Score all sets and keep what is to be kept; returns the metrics of each set."""
        found = Evaluation(step, epoch, self.score(LAST if last else "during_training"))
        sets = {name: split_metrics(scores) for name, scores in found.scores.items()}
        for domain, names in self.domains.items():
            accuracy = pooled(sets, names, HEADLINE.name)
            if all(
                accuracy > pooled(earlier["sets"], names, HEADLINE.name) for earlier in self.history
            ):  # the earliest of equals stays
                self.stages[f"best_{domain}"] = found
        self.stages = {LAST: found, **self.best}
        self.history.append({"step": step, "epoch": epoch, "sets": sets})
        if self.teacher is None:
            return sets
        kl = {name: mean_kl(self.teacher[name].label_logprobs, scores.label_logprobs) for name, scores in found.scores.items()}
        return {name: {**metrics, "kl": kl[name]} for name, metrics in sets.items()}

    @property
    def best(self) -> dict[str, Evaluation]:
        """The best so far: `best_in_domain`, `best_out_of_domain`."""
        return {stage: found for stage, found in self.stages.items() if stage != LAST}

    @property
    def selection(self) -> dict[str, dict[str, Any]]:
        """Of every stage its step, its epoch, and whether it was picked on the very sets it is judged by."""
        return {
            stage: {"step": found.step, "epoch": found.epoch, "selected_on_evaluation_set": stage != LAST}
            for stage, found in self.stages.items()
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs, JSON-able: a checkpoint that is read must not be able to run code, as a pickle is."""
        stages = {
            stage: {**vars(found), "scores": {name: _packed(scores) for name, scores in found.scores.items()}}
            for stage, found in self.stages.items()
        }
        return {"history": list(self.history), "stages": stages}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of an interrupted run, bit for bit."""
        self.history = state["history"]
        self.stages = {
            stage: Evaluation(**{**found, "scores": {name: _unpacked(scores) for name, scores in found["scores"].items()}})
            for stage, found in state["stages"].items()
        }


def _packed(scores: SplitScores) -> dict[str, Any]:
    """Arrays as their type and their values, which JSON keeps exactly."""
    fields = asdict(scores).items()
    return {name: {"dtype": v.dtype.str, "values": v.tolist()} if isinstance(v, np.ndarray) else v for name, v in fields}


def _unpacked(scores: dict[str, Any]) -> SplitScores:
    fields = {name: np.array(v["values"], v["dtype"]) if isinstance(v, dict) else v for name, v in scores.items()}
    return SplitScores(**{**fields, "task_metrics": tuple(fields["task_metrics"])})
