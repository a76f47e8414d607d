"""Side effects: how training on a document changes answers that have nothing to do with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmft.errors import InputError
from llmft.evaluation.elsewhere import abstention, contaminating, names_in
from llmft.runs.notes import say_note
from llmft.tasks.texts import query_text
from llmft.tasks.unrelated import unrelated_rows

if TYPE_CHECKING:
    from llmft.distillation.reference import TeacherReference
    from llmft.evaluation.answers import Answers
    from llmft.evaluation.scorer import Scorer
    from llmft.evaluation.scores import Scores
    from llmft.pipelines.job import Job
    from llmft.prompts.prompter import Prompter
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.schema import Row

LONGEST = 16
"""Most tokens that an answer to an unrelated prompt may have: differences show early, and the report must stay cheap."""
SET = "elsewhere"
"""The evaluation set that costs are recorded under."""
ANSWERS = "elsewhere.jsonl"
"""The file with these answers in a run's folder."""


@dataclass
class Elsewhere:
    """Unrelated prompts, asked in the same way as queries, and the answers at each stage.

    Attributes:
        names: names in the context, none of which belongs in an answer.
        answers: stage -> the answer to each prompt.
        divergences: stage -> (N,) mean KL per token from the model before training, along the answers of that model, in nats.
        reference: these answers and the distributions along them.
    """

    job: Job
    rows: list[Row]
    names: frozenset[str]
    answers: dict[str, list[str]] = field(default_factory=dict)
    divergences: dict[str, np.ndarray] = field(default_factory=dict)
    reference: TeacherReference | None = None

    @classmethod
    def create(cls, job: Job, answers: Answers, contexts: Iterable[str]) -> Elsewhere:
        """The prompts of a run: none if the flags say so, or if answers are labels.

        Args:
            contexts: texts that are trained on, or that prompts show before the query.
        """
        if not (answers.in_words and job.config.writing.evaluate_elsewhere):
            return cls(job, [], frozenset())
        rows = unrelated_rows(job.task, job.config.data.task_variant, job.config.run.data_seed)
        return cls(job, rows, names_in(contexts))

    def before(self, student: Scorer) -> None:
        """Have the model answer before training; later stages are compared with it along these answers."""
        if self._prompts(student) is None:
            self.rows = []
            return
        from llmft.distillation.reference import TeacherReference
        from llmft.distillation.teacher import likeliest_along
        from llmft.evaluation.scorer import MeanScorer

        student = _brief(student)
        with self.job.meter.phase("evaluate", "before", SET) as phase:
            answered = student.answered(self.rows, phase)
            with phase.beside("reference") as judging:
                targets = likeliest_along(MeanScorer((student,)), answered, judging)
        self.reference = TeacherReference(answered, targets.by_query())
        self.answers["before"] = [student.answers.written(row["answer_ids"]) for row in answered]

    def score(self, stage: str, scorer: Scorer) -> None:
        """Have a model answer, and compare it with the model before training."""
        prompts = self._prompts(scorer)
        if prompts is None:
            return
        from llmft.evaluation.texts import means
        from llmft.models.reading.continuations import Continued

        scorer, taught = _brief(scorer), [row["answer_ids"] for row in self.reference.rows]
        with self.job.meter.phase("evaluate", stage, SET) as phase, scorer.asking(prompts.prefix, phase) as asking:
            written = asking.write(prompts, rows=len(self.rows))
            with asking.aside() as judging:
                kept = judging.read(Continued.by_answers(prompts, taught), self.reference.question, rows=0)
        self.answers[stage] = [*map(scorer.answers.written, written)]
        self.divergences[stage] = means(kept["kl"], self.sizes)

    def _prompts(self, scorer: Scorer) -> TokenizedPrompts | None:
        """The prompts as tokens; None if there are none or, with a note, if they do not fit the model's window."""
        try:
            return scorer.prompter.prompts(self.rows) if self.rows else None
        except InputError as error:
            say_note(f"unrelated prompts are left out: {error}")
            return None

    @property
    def sizes(self) -> np.ndarray:
        """(N,) number of tokens in each answer of the model before training."""
        return np.array([len(row["answer_ids"]) for row in self.reference.rows], int)

    def names_in_answers(self, stage: str) -> list[list[str]]:
        """The names from the context in each answer."""
        return [
            contaminating(answer, row["text1"], self.names) for answer, row in zip(self.answers[stage], self.rows, strict=True)
        ]

    def metrics(self, scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Any]:
        """What `metrics.json` gets by stage: `off_context_kl`, `contamination` (share of answers with a name from the context;
        left out if the context has no names), `abstention` and `false_abstention`.

        Args:
            scores: stage -> set -> the task's own scores.
        """
        if not self.rows:
            return {}
        weights = self.sizes / self.sizes.sum()
        by_metric: dict[str, dict[str, float]] = {
            "off_context_kl": {stage: float(values @ weights) for stage, values in self.divergences.items()}
        }
        if self.names:
            by_metric["contamination"] = {
                stage: float(np.mean([bool(names) for names in self.names_in_answers(stage)])) for stage in self.answers
            }
        for stage, sets in scores.items():
            for metric, share in abstention([*sets.values()]).items():
                by_metric.setdefault(metric, {})[stage] = share
        name = self.job.task.name
        return {
            **{metric: {stage: {name: value} for stage, value in of.items()} for metric, of in by_metric.items()},
            "elsewhere": {"prompts": len(self.rows), "tokens": int(self.sizes.sum()), "names": len(self.names)},
        }

    def keep(self) -> None:
        """Write the answers to a file for people to read."""
        from llmft.runs.store import write_json_lines

        if not (self.rows and self.job.record.writes):
            return
        names = {stage: self.names_in_answers(stage) for stage in self.answers}
        lines = []
        for i, row in enumerate(self.rows):
            answers = {stage: answers[i] for stage, answers in self.answers.items()}
            kl = {stage: float(values[i]) for stage, values in self.divergences.items()}
            lines.append({"prompt": row["text1"], **answers, "kl": kl, "names": {stage: one[i] for stage, one in names.items()}})
        write_json_lines(self.job.record.path / ANSWERS, lines)


def _brief(scorer: Scorer) -> Scorer:
    """The scorer with short, greedy answers and no cache."""
    longest = min(scorer.answers.generation.max_new_tokens, LONGEST)
    return replace(scorer.generating(max_new_tokens=longest, temperature=0.0), cache=None)


def context_texts(prompter: Prompter) -> list[str]:
    """The texts that prompts show before the query, without what a chat template adds."""
    prompt_format, shots = prompter.prompt_format, prompter.demonstrations
    turns = [turn.content for turn in prompt_format.turns]
    return [
        prompt_format.instruction,
        prompt_format.document,
        *turns,
        *(text for row in shots for text in (query_text(row), *(row.get("answer") or ()))),
    ]
