"""How distillation is judged in addition to scores: the student's distance from its teacher, and the cost of a query."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmft.pipelines.prompt_sizes import prompt_sizes, student_tokens
from llmft.runs.notes import say_note
from llmft.runs.summary import pooled

if TYPE_CHECKING:
    from llmft.evaluation.answers import Answers
    from llmft.evaluation.scores import Headline, Scores
    from llmft.pipelines.job import Job

NEAR = 1e-3
"""KL, in nats, below which a student has nothing to learn from its teacher."""
CHANCE = 2
"""Number of standard errors by which scores may drop without being called worse."""
HARDLY_MOVED, MOVED_AWAY = 0.8, 1.25
"""Thresholds of KL after training / KL before: above the first the student has hardly moved, above the second it has moved
away."""
THROWN_OFF = 3
"""Threshold of the loss of some steps / KL before training, above which these steps have thrown the student off. In the runs of
docs/comparison the ratio was up to 2.1 where the student learnt all the same, and 4.5 where it did not. (The loss is over the
queries, the KL over the evaluation rows, so that the two need not begin equal.)"""


def mean_losses(log: Sequence[Mapping[str, Any]], steps: int = 10) -> list[float]:
    """The training log's loss, as means over `steps` steps, or over the steps between two log entries if those are more: a
    single batch says little."""
    windows: dict[int, list[float]] = {}
    for entry in log:
        if "loss" in entry:
            windows.setdefault((entry["step"] - 1) // steps, []).append(entry["loss"])
    return [sum(losses) / len(losses) for losses in windows.values()]


def say_how_far(name: str, before: float, after: float, losses: Sequence[float] = ()) -> None:
    """Print a hint if training has not brought the student closer to its teacher, or has first led it away.

    Args:
        name: the evaluation set.
        before: KL of the student from its teacher before training, in nats.
        after: the same after training.
        losses: those of the training log, if they are also KL from the teacher.
    """
    if before < NEAR:
        return
    figures = f"KL to the teacher on {name} was {before:.3f} and is {after:.3f}"
    if max(losses, default=0.0) > THROWN_OFF * before:
        print(
            f"training threw the student off at first: {figures}, and the training loss reached {max(losses):.3f}; "
            "try a --learning_rate 3 to 10 times lower"
        )
    elif after <= HARDLY_MOVED * before:
        return
    elif after < MOVED_AWAY * before:
        print(
            f"the student has hardly moved: {figures}; try a --learning_rate 3 to 10 times higher, more --num_train_epochs, or "
            "more queries (--max_train_samples)"
        )
    else:
        print(f"the student has moved away from its teacher: {figures}; try a --learning_rate 3 to 10 times lower")


def compare(
    job: Job, answers: Answers, scores: dict[str, dict[str, Scores]], token_bytes: Mapping[str, int | None]
) -> dict[str, Any]:
    """Measures of distillation other than accuracy: KL and agreement with the teacher, gap recovered, tokens per query."""
    teacher, stages, headline = scores["teacher"], job.record.stages, answers.headline
    against: dict[str, dict[str, dict[str, float]]] = {"kl": {}, "agreement": {}}
    for stage, sets in scores.items():
        for name, student in sets.items() if stage != "teacher" else ():
            for measure, value in answers.divergence(teacher[name], student).items():
                against[measure].setdefault(stage, {})[name] = value
    gaps = {
        group: headline.gap_recovered(*(pooled(stages[s], list(sets), headline.name) for s in ("teacher", "before", "after")))
        for group, sets in job.data.groups.items()
        if sets
    }
    of_task = {stage: scores[stage][job.task.name] for stage in ("teacher", "before", "after")}
    tokens = {"teacher": of_task["teacher"].tokens_per_query, **student_tokens(of_task["before"], of_task["after"])}
    return {**against, "gap_recovered": gaps, **prompt_sizes(tokens, token_bytes)}


def say_whether_out_of_domain_suffers(
    sets: Collection[str], before: Mapping[str, Scores], after: Mapping[str, Scores], headline: Headline
) -> None:
    """Warn if the student is worse out of domain than before training, by more than `CHANCE` standard errors of the rows'
    changes.

    Args:
        sets: names of the out-of-domain sets; may be empty.
        before, after: scores of all sets.
    """
    import numpy as np

    if not sets:
        return
    earlier, later = (np.concatenate([scores[name]["score"] for name in sets]) for scores in (before, after))
    losses = earlier - later if headline.higher_is_better else later - earlier
    if losses.mean() > CHANCE * losses.std() / np.sqrt(len(losses)):
        say_note(
            f"distillation has made the student worse out of domain: {headline.name} on {', '.join(sets)} was "
            f"{earlier.mean():.3f} and is {later.mean():.3f}; try a lower --learning_rate, fewer --num_train_epochs, or "
            "queries that are closer to those rows",
            "warning",
        )


def say_whether_context_helps(job: Job, headline: Headline) -> None:
    """Warn if the teacher with the context is no better than the student without it: then there is nothing to learn."""
    values = {stage: pooled(job.record.stages[stage], list(job.data.in_domain), headline.name) for stage in ("teacher", "before")}
    if job.record.writes and not headline.better(values["teacher"], values["before"]):
        figures = f"{headline.name} is {values['teacher']:.3f} with it and {values['before']:.3f} without"
        say_note(f"the context does not help the teacher: {figures}; try another model or context", "warning")
