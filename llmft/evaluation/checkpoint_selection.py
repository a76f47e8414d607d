"""Evaluations during training, and the checkpoints they select (Mosbach et al. 2023, sections 3 and 4: best in-domain, last,
best out-of-domain)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmft.evaluation.answers import Answers
from llmft.evaluation.scores import Scores
from llmft.runs.summary import pooled

LAST = "after"


@dataclass(frozen=True)
class Evaluation:
    """Scores of all evaluation sets after some steps of training."""

    step: int
    epoch: float
    scores: Mapping[str, Scores]


@dataclass
class Evaluations:
    """Metrics of every evaluation of a run, and scores of the last and the best ones.

    The best are selected by the headline on the evaluation sets themselves, so they only show what training passed through. The
    untrained model is not a candidate. All ranks hold the same.

    Args:
        score: scores all sets with the current model; the cost is counted under the given stage.
        measure: the metrics of each set.
        answers: how answers are judged.
        domains: those for which a best evaluation is selected: `in_domain` and `out_of_domain` with their sets, or none.
        teacher: its scores of all sets, from which each evaluation's divergence is computed; None if there is none.
    """

    score: Callable[[str], Mapping[str, Scores]]
    measure: Callable[[Mapping[str, Scores]], dict[str, dict[str, Any]]]
    answers: Answers
    domains: Mapping[str, Sequence[str]]
    teacher: Mapping[str, Scores] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, Evaluation] = field(default_factory=dict)

    def evaluate(self, step: int, epoch: float, *, last: bool) -> dict[str, dict[str, Any]]:
        """Score all sets and keep the last and best scores; returns the metrics of each set."""
        evaluation = Evaluation(step, epoch, self.score(LAST if last else "during_training"))
        sets, headline = self.measure(evaluation.scores), self.answers.headline
        for domain, names in self.domains.items():
            value, *earlier = (pooled(one, names, headline.name) for one in (sets, *(e["sets"] for e in self.history)))
            if all(headline.better(value, other) for other in earlier):  # of equal ones the earliest stays
                self.stages[f"best_{domain}"] = evaluation
        self.stages = {LAST: evaluation, **self.best}
        self.history.append({"step": step, "epoch": epoch, "sets": sets})
        if self.teacher is None:
            return sets
        scores = evaluation.scores
        return {name: {**sets[name], "kl": self.answers.divergence(self.teacher[name], scores[name])["kl"]} for name in sets}

    @property
    def best(self) -> dict[str, Evaluation]:
        """The best so far: `best_in_domain`, `best_out_of_domain`."""
        return {stage: evaluation for stage, evaluation in self.stages.items() if stage != LAST}

    @property
    def selection(self) -> dict[str, dict[str, Any]]:
        """For every stage its step, its epoch, and whether it was selected on the very sets it is judged on."""
        return {
            stage: {"step": evaluation.step, "epoch": evaluation.epoch, "selected_on_evaluation_set": stage != LAST}
            for stage, evaluation in self.stages.items()
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs, JSON-able: unlike a pickle, a checkpoint must not be able to run code when it is read."""
        stages = {
            stage: {**vars(evaluation), "scores": {name: scores.state() for name, scores in evaluation.scores.items()}}
            for stage, evaluation in self.stages.items()
        }
        return {"history": list(self.history), "stages": stages}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from the `state` of an interrupted run, bit for bit."""
        self.history, self.stages = state["history"], {}
        for stage, kept in state["stages"].items():
            scores = {name: Scores.from_state(one) for name, one in kept["scores"].items()}
            self.stages[stage] = Evaluation(kept["step"], kept["epoch"], scores)
