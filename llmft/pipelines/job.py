"""One run in progress: scorers, scoring a stage, the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.arguments.config import Config
from llmft.arguments.run import as_dict
from llmft.arguments.run_checks import check_rows
from llmft.cost.meter import Meter
from llmft.cost.phases import PhaseKey, combine_ranks
from llmft.models.load import short_name
from llmft.prompts.render import PromptFormat
from llmft.runs.notes import say_note
from llmft.runs.ranks import all_gather
from llmft.runs.record import RunRecord
from llmft.tasks.load import TaskData
from llmft.tasks.schema import Row, Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.evaluation.answer_cache import AnswerCache, Saved
    from llmft.evaluation.answers import Answers, Reference
    from llmft.evaluation.scorer import MeanScorer, Scorer
    from llmft.evaluation.scores import Scores


@dataclass
class Job:
    """One run in progress."""

    method: str
    task: Task
    model_name: str
    config: Config
    given: dict[str, Any]
    """Arguments that can change the result and are not at their default; learning rate and epochs are the values in use."""
    schedule: str | None
    """Learning rate and epochs and where they come from, as a sentence; None if nothing is trained."""
    described: dict[str, str]
    """Names of the files and other models whose content is in the run's name, so that people can tell runs apart."""
    setting: str
    """Hash of everything but the seeds, including those of a student's training: runs that share it are repetitions."""
    identity: dict[str, Any]
    """What the record says about the models themselves, for the report: `fingerprints`, `student`, `folder`."""
    data_fingerprints: dict[str, str]
    record: RunRecord
    meter: Meter = field(default_factory=Meter)
    first: Job | None = None
    """An earlier job of the same command line, whose model and data are used if it has loaded them."""
    loaded_by: Path | None = None
    """The record of the job that loaded them and paid for that, if this is a later one."""
    data: TaskData | None = None
    eval_sets: dict[str, list[Row]] = field(default_factory=dict)
    contexts: list[list[Row]] = field(default_factory=list)
    """The demonstrations of each context."""
    other_sets: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    """Group -> set name -> rows that a pipeline scores in addition to the task's own sets, at the stages it chooses."""
    other_tasks: dict[str, Task] = field(default_factory=dict)
    """Name of such a set -> its task."""
    references: Mapping[str, Reference] = field(default_factory=dict)
    """Set -> what the model's answers are compared with, in addition to the rows' own."""
    train_idx: list[Any] = field(default_factory=list)
    """Idx of the training rows or queries."""
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
    model_weights: int = 0
    """Number of weights of the model as loaded."""
    paid_before: set[PhaseKey] = field(default_factory=set)
    """Phases whose work was done, and whose costs were counted, in an earlier session of this run."""
    cache: AnswerCache | None = None
    """The teacher's answers."""
    saved_before: Saved = field(default_factory=dict)
    """What an earlier session of this run did not have to compute thanks to them."""
    resumed_from: str | None = None
    """Checkpoint from which training resumed. Costs up to it are counted; what a killed session spent after it is not known."""

    @property
    def demonstrations(self) -> list[Row]:
        """Those of the first context; none if there is no context."""
        return self.contexts[0] if self.contexts else []

    def saved(self) -> Saved:
        """What no session of this run had to compute, as its teacher's answers were in the cache."""
        return self.cache.saved_with(self.saved_before, self.paid_before) if self.cache else {}

    def scorer(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        *,
        task: Task | None = None,
        sample: Row | None = None,
        demonstrations: Sequence[Row] = (),
        calibrate: bool = False,
        reserved: int = 0,
    ) -> Scorer:
        """A way of asking `model` for a task's answers, with the flags' lengths, answers and batches.

        Args:
            task, sample: another task than the run's own, and one of its rows.
            reserved: number of virtual tokens that training will put before every prompt, for which room is left.

        Raises:
            InputError: the prompts and the answers do not fit together, for example a label word is not a single token.
        """
        from llmft.evaluation.kinds import answers_of
        from llmft.evaluation.scorer import Scorer
        from llmft.models.reading.batches import BatchSize
        from llmft.prompts.prompter import Prompter

        trained, teacher = self.config.trained, self._teacher(model)
        prompter = Prompter(
            tokenizer,
            prompt_format,
            tuple(demonstrations),
            max_length=self.config.data.max_seq_length,
            may_cut=self.config.distillation is None,
            reserved=reserved,
            virtual_flag=trained.virtual_flag if trained and not teacher else "",
            model=f"--teacher_model_name_or_path {teacher}" if teacher else f"--model_name_or_path {self.model_name}",
        )
        answers, sample = answers_of(task or self.task), sample or next(iter(self.eval_sets.values()))[0]
        batch_size, asked = BatchSize.of(self.config.run), {"task": task or self.task, "config": self.config}
        return Scorer.create(model, prompter, answers, sample, batch_size, **asked, calibrate=calibrate)

    def _teacher(self, model: torch.nn.Module) -> str | None:
        """The name of a model that is another than the run's own; None for that."""
        own = self.loaded is None or model is self.loaded[0]
        return None if own or self.config.distillation is None else self.config.distillation.teacher_model_name_or_path

    def check_prompts(self, *scorers: Scorer | MeanScorer, train_rows: Sequence[Row] = ()) -> None:
        """Check that the scorers' prompts fit the model, and that evaluation rows can be answered right; `train_rows` are the
        rows or queries that will be trained on.

        Raises:
            InputError: prompts do not fit, or no evaluation row can be answered right.
        """
        self.train_idx = [row["idx"] for row in train_rows]
        eval_rows = scorers[0].answers.as_scored([row for rows in self.eval_sets.values() for row in rows])
        for scorer in scorers:
            scorer.check_window([*train_rows, *eval_rows])
        scorers[0].answers.check_stops(eval_rows)  # those of the others end alike

    def begin(self) -> None:
        """Write `config.json` with all arguments and draws: from here on the run has a folder, and all input has been checked.
        Prints the learning rate and epochs in use.

        Raises:
            InputError: the training rows are too few.
        """
        if self.schedule is not None:
            check_rows(self.config.run, len(self.train_idx))
            if self.record.writes:
                print(self.schedule)
        draws = {
            "demonstrations": [[row["idx"] for row in context] for context in self.contexts or [[]]],
            "train_rows": self.train_idx,
            "eval_rows": {
                name: [row["idx"] for row in rows]
                for sets in (self.eval_sets, *self.other_sets.values())
                for name, rows in sets.items()
            },
        }
        self.record.write_config(
            {
                "method": self.method,
                "task": self.task.name,
                "task_version": self.task.version,
                "model": short_name(self.model_name),
                "setting": self.setting,
                "given": {**self.given, **self.described},
                "arguments": {name: as_dict(group) for name, group in self.config.groups.items()},
                "data_fingerprints": self.data_fingerprints,
                **self.identity,
                "draws": draws,
            }
        )

    def score(self, stage: str, scorer: Scorer | MeanScorer) -> dict[str, Scores]:
        """Score all evaluation sets and add metrics, predictions and costs to the record."""
        scores = self.score_sets(stage, scorer)
        self.keep(stage, scorer.answers, scores)
        return scores

    def score_sets(self, stage: str, scorer: Scorer | MeanScorer) -> dict[str, Scores]:
        """Score all evaluation sets; each is a phase of kind `evaluate`."""
        return {name: self.score_set(stage, name, scorer, rows) for name, rows in self.eval_sets.items()}

    def score_set(self, stage: str, name: str, scorer: Scorer | MeanScorer, rows: Sequence[Row]) -> Scores:
        """Score the rows of one set."""
        with self.meter.phase("evaluate", stage, name) as phase:
            return scorer.score(rows, phase, self.references.get(name))

    def metrics_of(self, answers: Answers, scores: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
        """The metrics of each set."""
        tasks = {name: self.other_tasks.get(name) for name in scores}
        names = {name: task.metrics_of(task.name) if task else self.task.metrics_of(name) for name, task in tasks.items()}
        return {name: answers.metrics(one, names[name]) for name, one in scores.items()}

    def keep(self, stage: str, answers: Answers, scores: Mapping[str, Scores]) -> None:
        """Add metrics and predictions of sets to the record."""
        metrics = self.metrics_of(answers, scores)
        for name, one in scores.items():
            columns = {column: list(values) if values.ndim > 1 else values for column, values in one.columns.items()}
            self.record.add(stage, name, metrics[name], columns)

    def finish(
        self,
        metrics: dict[str, Any],
        log: Sequence[dict[str, Any]] = (),
        *,
        prompts: Mapping[str, Sequence[PromptFormat]] | None = None,
    ) -> None:
        """Write the record of all ranks and say where it is.

        Args:
            prompts: role (`teacher`, `student`) -> the prompt format in each context, for a student's card.
        """
        from llmft.evaluation.answer_cache import as_record
        from llmft.evaluation.kinds import answers_of
        from llmft.models.reading.agreement import disagreements
        from llmft.pipelines.breakdowns import breakdowns
        from llmft.pipelines.model_card import write_cards
        from llmft.runs.summary import show_run

        sets = {group: list(sets) for group, sets in (self.data.groups | self.other_sets).items()}
        majority = {}
        for name, rows in chain(self.eval_sets.items(), *(sets.items() for sets in self.other_sets.values())):
            rate = answers_of(self.other_tasks.get(name, self.task)).majority(rows)
            if rate is not None:
                majority[name] = rate
        weights = {"model": self.model_weights, "trainable": 0, **metrics.get("weights", {})}
        with self.meter.phase("record"):
            headline = answers_of(self.task).headline_of(self.task)
            shown = {"headline": headline._asdict(), "sets": sets, "majority": majority}
            shown |= breakdowns(self.record.stages, self.record.predictions)
            shown |= {"warnings": lines} if (lines := disagreements()) else {}
            self.record.write_results({**shown, **metrics, "weights": weights}, log)
        costs = combine_ranks(all_gather(self.meter.as_dict())) | {
            "resumed_from": self.resumed_from,
            "loaded_by": str(self.loaded_by) if self.loaded_by else None,
            "saved_by_teacher_cache": as_record(self.saved()),
        }
        self.record.write_costs(costs)
        limits = write_cards(self.record.path, self.model_name, prompts or {}) if self.record.writes else []
        self.record.finish()
        if self.record.writes:
            show_run(self.record.path)
            for limit in limits:
                say_note(limit)
