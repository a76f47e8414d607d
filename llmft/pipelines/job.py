"""One run under way: loading, draws, ways of asking, scoring a stage, the record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llmft.arguments.config import Config
from llmft.arguments.run import as_dict
from llmft.cost.meter import Meter
from llmft.cost.phases import combine_ranks
from llmft.errors import InputError
from llmft.models.load import load_model, short_name
from llmft.prompts.demonstrations import draw_contexts, draw_eval_rows
from llmft.prompts.render import PromptFormat
from llmft.runs.record import RunRecord
from llmft.tasks.listed import listed_demonstrations
from llmft.tasks.load import TaskData, load_task
from llmft.tasks.table import Row, Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.distillation.teacher import Teachers
    from llmft.evaluation.scorer import Asker, SplitScores


@dataclass
class Job:
    """One run under way."""

    method: str
    task: Task
    model_name: str
    config: Config
    given: dict[str, Any]
    """Arguments that can change the result and are not at their default; learning rate and epochs are those in force."""
    schedule: str | None
    """Learning rate and epochs and where they come from, as a sentence; None where nothing is trained."""
    described: dict[str, str]
    """What files and other models are called, whose content is in the run's name: tells runs apart for people."""
    setting: str
    """Hash of everything but the seeds, those of a student's training too: runs that share it are repetitions."""
    identity: dict[str, Any]
    """What the record tells of the models themselves, for the report: `fingerprints`, `student`, `folder`."""
    data_fingerprints: dict[str, str]
    record: RunRecord
    meter: Meter = field(default_factory=Meter)
    first: Job | None = None
    """The job of the same command line that has loaded model and data, if this is a later one."""
    data: TaskData | None = None
    eval_sets: dict[str, list[Row]] = field(default_factory=dict)
    contexts: list[list[Row]] = field(default_factory=list)
    """The demonstrations of each context."""
    other_sets: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    """Group -> set name -> rows that a pipeline scores beside the task's own sets, at the stages it chooses."""
    train_idx: list[Any] = field(default_factory=list)
    """Idx of the training rows or queries."""
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
    model_weights: int = 0
    """Number of the weights of the model as it was loaded."""
    paid_before: set[str] = field(default_factory=set)
    """Phases whose work an earlier session of this run has done, and the costs count."""
    resumed_from: str | None = None
    """Checkpoint that training went on from. Costs up to there are counted; what a killed session spent after it is not known."""

    def load(self, *, with_demonstrations: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load data and model, on the device that was asked for; draw evaluation rows and, if used, demonstrations.

        Raises:
            InputError: something is missing or does not fit together.
        """
        self.load_data(num_contexts=1 if with_demonstrations else 0)
        return self.load_model()

    def load_data(self, *, num_contexts: int) -> None:
        """Load all rows; draw evaluation rows and the demonstrations of each context.

        Raises:
            InputError: rows are missing, or fewer than the draws need.
        """
        data, run = self.config.data, self.config.run
        if self.first is not None and self.first.data is not None and self.task.splits is None:
            self.data = self.first.data
        else:
            self.data = load_task(
                self.task,
                variant=data.task_variant,
                data_seed=run.data_seed,
                data_dir=data.data_dir,
                cache_dir=data.dataset_cache_dir,
            )
        self.eval_sets = {name: draw_eval_rows(rows, data.max_eval_samples) for name, rows in self.data.eval_sets.items()}
        self.contexts = self._draw_contexts(num_contexts) if num_contexts else []

    def load_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load model and tokenizer, on the device that was asked for.

        Raises:
            InputError: there is no such model, or it has not the part that is to be trained.
        """
        from llmft.models.parts.adapt import check_part, count_trainable

        if self.first is not None and self.first.loaded is not None:
            self.loaded = self.first.loaded
        else:
            model = self.config.model
            loaded, tokenizer = self.load_other_model(
                self.model_name,
                "--model_name_or_path",
                revision=model.model_revision,
                gguf_file=model.gguf_file,
                tokenizer_name=model.tokenizer_name,
            )
            if self.config.trained is not None:
                from llmft.models.parts.saving import start_of

                loaded = start_of(loaded, self.model_name)
                check_part(loaded, self.config.trained)
            self.loaded = loaded, tokenizer
        self.model_weights = count_trainable(self.loaded[0]).total
        return self.loaded

    def load_other_model(
        self, name: str, flag: str, *, revision: str, gguf_file: str | None = None, tokenizer_name: str | None = None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A model as it is, by the flags that say how models are held.

        Args:
            flag: the flag that names it, for messages.

        Raises:
            InputError: there is no such model.
        """
        model = self.config.model
        loaded, tokenizer = load_model(
            name,
            dtype=model.torch_dtype or self._default_dtype(name, revision, flag),
            attn_implementation=model.attn_implementation,
            revision=revision,
            cache_dir=model.cache_dir,
            gguf_file=gguf_file,
            tokenizer_name=tokenizer_name,
            trust_remote_code=model.trust_remote_code,
            flag=flag,
        )
        return loaded.to(self.config.run.device), tokenizer

    @property
    def demonstrations(self) -> list[Row]:
        """Those of the first context; none where there is none."""
        return self.contexts[0] if self.contexts else []

    def _default_dtype(self, name: str, revision: str, flag: str) -> str:
        """The precision where none is asked for: float32, in eval.py that of --fp16 or --bf16, or a student's own."""
        from llmft.models.identity import settings_of_student

        run, cache_dir = self.config.run, self.config.model.cache_dir
        trained_in = settings_of_student(name, revision, cache_dir).get("dtype", "float32")
        if self.method == "icl":
            return "float16" if run.fp16 else "bfloat16" if run.bf16 else trained_in
        if trained_in != "float32" and self.record.writes:
            sys.stderr.write(
                f"note: {flag} {name}: was trained in {trained_in} and is loaded in float32, which changes its scores a little; "
                f"--torch_dtype {trained_in} gives its own\n"
            )
        return "float32"  # training under --fp16 or --bf16 keeps full-precision weights to update

    def _draw_contexts(self, num_contexts: int) -> list[list[Row]]:
        shots = self.config.shots
        if not self.data.demonstrations:
            data = self.config.data
            raise InputError(
                f"--train_file {data.train_file}: no row has a label in column {data.label_column}; demonstrations need labels, "
                "write some there, or name the column with --label_column"
            )
        if shots.sample_indices_file is not None:
            listed = listed_demonstrations(self.data.demonstrations, shots.sample_indices_file)
            if "num_shots" in self.given and shots.num_shots != len(listed):
                raise InputError(
                    f"--num_shots {shots.num_shots}: --sample_indices_file names {len(listed)} rows; leave --num_shots out"
                )
            if num_contexts > 1:
                raise InputError(f"--num_contexts {num_contexts}: --sample_indices_file names one context; leave one of them out")
            return [listed]
        return draw_contexts(
            self.data.demonstrations,
            num_contexts,
            shots.num_shots,
            data_seed=self.config.run.data_seed,
            balanced=shots.balanced,
            shuffle=shots.shuffle,
            num_labels=len(self.task.label_names),
        )

    def asker(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        *,
        demonstrations: Sequence[Row] = (),
        calibrate: bool = False,
        trained: bool = False,
    ) -> Asker:
        """A way of asking `model`, with what the flags say about lengths, labels and batches.

        Args:
            trained: whether it is the one to be trained, so that room is left for a soft prompt.

        Raises:
            InputError: a label word is not one token.
        """
        from llmft.evaluation.scorer import Asker

        return Asker.create(
            model,
            tokenizer,
            prompt_format,
            sample=next(iter(self.eval_sets.values()))[0],
            demonstrations=demonstrations,
            calibrate=calibrate,
            batch_size=self.config.run.eval_batch,
            soft_prompt_tokens=self.config.trained.virtual_tokens if trained else 0,
            virtual_flag="--cartridge_tokens" if trained and self.config.trained.use_cartridge else "--num_soft_prompt_tokens",
            max_length=self.config.data.max_seq_length,
            several=self.config.data.multi_token_labels,
        )

    def check_prompts(self, *askers: Asker | Teachers, train_rows: Sequence[Row] = ()) -> None:
        """Check that the askers' prompts fit the model; `train_rows` are the rows or queries that will be trained on.

        Raises:
            InputError: they do not fit.
        """
        self.train_idx = [row["idx"] for row in train_rows]
        for asker in askers:
            asker.check_window([*train_rows, *(row for rows in self.eval_sets.values() for row in rows)])

    def check_start(self, model: PreTrainedModel) -> None:
        """Check that the model's own weights that will be trained are finite numbers.

        Raises:
            InputError: one is not.
        """
        from llmft.models.parts.adapt import trained_weights
        from llmft.training.stop_at_nan import check_start

        check_start(self.model_name, trained_weights(model, self.config.trained))

    def begin(self) -> None:
        """Write `config.json` with all arguments and draws: from here on the run has a folder, and bad input is past. Says what
        learning rate and epochs it uses."""
        if self.record.writes and self.schedule is not None:
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

    def score(self, stage: str, asker: Asker | Teachers) -> dict[str, SplitScores]:
        """Score all evaluation sets and put metrics, predictions and costs in the record."""
        found = self.score_sets(stage, asker)
        self.keep(stage, found)
        return found

    def score_sets(self, stage: str, asker: Asker | Teachers) -> dict[str, SplitScores]:
        """Score all evaluation sets; what each costs is the phase `eval <stage> <set>`."""
        found = {}
        for name, rows in self.eval_sets.items():
            with self.meter.phase(f"eval {stage} {name}") as phase:
                scores = asker.score(rows, phase)
            found[name] = replace(scores, task_metrics=self.task.metrics_of(name))
        return found

    def metrics_of(self, found: dict[str, SplitScores]) -> dict[str, dict[str, Any]]:
        """The metrics of each set."""
        from llmft.evaluation.labels import split_metrics

        return {name: split_metrics(scores) for name, scores in found.items()}

    def keep(self, stage: str, found: dict[str, SplitScores]) -> None:
        """Put metrics and predictions of all sets in the record."""
        metrics = self.metrics_of(found)
        for name, scores in found.items():
            columns = {
                "idx": scores.idx,
                "label": scores.labels,
                "prediction": scores.predictions,
                "label_logprobs": list(scores.label_logprobs),
                "token_logprobs": list(scores.token_logprobs),
            }
            self.record.add(stage, name, metrics[name], columns)

    def finish(
        self,
        metrics: dict[str, Any],
        log: Sequence[dict[str, Any]] = (),
        *,
        prompts: Mapping[str, Sequence[PromptFormat]] | None = None,
        saved: dict[str, float] | None = None,
    ) -> None:
        """Write the record of all ranks and say where it is.

        Args:
            prompts: who is asked (`teacher`, `student`) -> the prompt format in each context, for a student's card.
            saved: what answers found in the cache had cost when they were made, for `cost.json`.
        """
        from llmft.evaluation.labels import majority
        from llmft.models.distributed import all_gather
        from llmft.pipelines.model_card import write_cards
        from llmft.runs.summary import show_run

        sets = {group: list(sets) for group, sets in (self.data.groups | self.other_sets).items()}
        rows = self.eval_sets | {name: found for group in self.other_sets.values() for name, found in group.items()}
        rates = {name: majority([row["label"] for row in found]) for name, found in rows.items()}
        weights = {"model": self.model_weights, "trainable": 0, **metrics.get("weights", {})}
        with self.meter.phase("record"):
            self.record.write_results({"sets": sets, "majority": rates, **metrics, "weights": weights}, log)
        costs = combine_ranks(all_gather(self.meter.as_dict())) | {
            "resumed_from": self.resumed_from,
            "loaded_by": str(self.first.record.path) if self.first else None,
            "saved_by_teacher_cache": saved or {},
        }
        self.record.write_costs(costs)
        limits = write_cards(self.record.path, self.model_name, prompts or {}) if self.record.writes else []
        self.record.finish()
        if self.record.writes:
            show_run(self.record.path)
            sys.stderr.writelines(f"note: {limit}\n" for limit in limits)
