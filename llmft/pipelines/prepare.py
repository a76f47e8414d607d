"""What all pipelines share: arguments -> task, draws, run record, meter; then loading, and scoring a stage."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.arguments import (
    IRRELEVANT,
    AdapterArguments,
    DataArguments,
    DemonstrationArguments,
    DistillationArguments,
    FineTuningArguments,
    ModelArguments,
    RunArguments,
    as_dict,
    parse,
)
from llmft.cost.meter import Meter, combine_ranks
from llmft.errors import InputError
from llmft.models.load import fingerprint_model, load_model, short_name
from llmft.prompts.demonstrations import draw_demonstrations, draw_eval_rows
from llmft.prompts.placeholders import take_off_placeholders
from llmft.prompts.render import PromptFormat
from llmft.prompts.verbalizer import parse_words
from llmft.runs.record import RunRecord
from llmft.runs.store import short_hash
from llmft.tasks.load import TaskData, fingerprint_data, load_task
from llmft.tasks.table import Row, Task, get_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.evaluation.score import Asker, SplitScores

RECORD_VERSION = 1
"""Part of every run's name; to be raised when a default changes, or the code so that the same arguments give other results."""


@dataclass
class Job:
    """One run under way."""

    method: str
    task: Task
    model_name: str
    groups: dict[str, Any]
    """Argument group's class name -> instance."""
    given: dict[str, Any]
    """Arguments that can change the result and are not at their default."""
    setting: str
    """Hash of everything but the seeds: runs that share it are repetitions."""
    record: RunRecord
    meter: Meter
    data: TaskData | None = None
    eval_sets: dict[str, list[Row]] = field(default_factory=dict)
    demonstrations: list[Row] = field(default_factory=list)
    resumed_from: str | None = None
    """Checkpoint that training went on from; the costs up to there are not in this record."""

    def arguments(self, group: type) -> Any:
        """The arguments of one group (or of the subclass of it that was parsed)."""
        return next(value for value in self.groups.values() if isinstance(value, group))

    def load(self, *, with_demonstrations: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load data and model, on the device that was asked for; draw evaluation rows and, if used, demonstrations.

        Raises:
            InputError: something is missing or does not fit together.
        """
        data, model, shots = (self.arguments(g) for g in (DataArguments, ModelArguments, DemonstrationArguments))
        run = self.arguments(RunArguments)
        self.data = load_task(
            self.task,
            variant=data.task_variant,
            data_seed=run.data_seed,
            data_dir=data.data_dir,
            cache_dir=data.dataset_cache_dir,
        )
        self.eval_sets = {name: draw_eval_rows(rows, data.max_eval_samples) for name, rows in self.data.eval_sets.items()}
        if with_demonstrations:
            self.demonstrations = draw_demonstrations(
                self.data.demonstrations,
                shots.num_shots,
                data_seed=run.data_seed,
                balanced=shots.balanced,
                shuffle=shots.shuffle,
                num_labels=len(self.task.label_names),
            )
        loaded, tokenizer = load_model(
            self.model_name,
            dtype=model.torch_dtype,
            attn_implementation=model.attn_implementation,
            revision=model.model_revision,
            cache_dir=model.cache_dir,
            gguf_file=model.gguf_file,
            tokenizer_name=model.tokenizer_name,
            trust_remote_code=model.trust_remote_code,
        )
        trained = self.trained
        if trained is not None:
            from llmft.models.adapt import check_part
            from llmft.models.student import start_of

            loaded = start_of(loaded, self.model_name)
            check_part(loaded, trained.part, trained.lora_targets)
        return loaded.to(run.device), tokenizer

    @property
    def trained(self) -> AdapterArguments | None:
        """Which part of the model is trained; None where nothing is."""
        return next((group for group in self.groups.values() if isinstance(group, AdapterArguments)), None)

    def prompt_format(self, who: str | None = None) -> PromptFormat:
        """The prompt format that the flags ask for.

        Args:
            who: `teacher` or `student` for the one whose own pattern, prefix and target tokens win; else None. The
                description is context: a student never reads it.
        """
        data = self.arguments(DataArguments)
        own = self.arguments(DistillationArguments) if who else None

        def choose(name: str, default: str) -> tuple[str, str]:
            for flag, group in ((f"{who}_{name}", own), (name, data)):
                value = getattr(group, flag, None)
                if value is not None:
                    return value, f"--{flag}"
            return default, f"--{name}"

        pattern, pattern_flag = choose("pattern", self.task.pattern)
        if self.trained is not None and self.trained.use_soft_prompt:
            pattern = take_off_placeholders(pattern, self.trained.num_soft_prompt_tokens, pattern_flag)
        words, words_flag = choose("target_tokens", ",".join(self.task.target_tokens))
        return PromptFormat(
            pattern=pattern,
            prefix=choose("target_prefix", "")[0],
            separator=data.separate_shots_by,
            words=parse_words(words, len(self.task.label_names), words_flag),
            description="" if who == "student" else data.task_description,
            pattern_flag=pattern_flag,
            words_flag=words_flag,
        )

    def begin(self, *askers: Asker, train_rows: Sequence[Row] = ()) -> None:
        """Check that the askers' prompts fit the model, and write `config.json` with all arguments and draws.

        Raises:
            InputError: they do not fit.
        """
        for asker in askers:
            asker.check_window([*train_rows, *(row for rows in self.eval_sets.values() for row in rows)])
        draws = {
            "demonstrations": [[row["idx"] for row in self.demonstrations]],
            "train_rows": [row["idx"] for row in train_rows],
            "eval_rows": {name: [row["idx"] for row in rows] for name, rows in self.eval_sets.items()},
        }
        data = self.arguments(DataArguments)
        self.record.write_config(
            {
                "method": self.method,
                "task": self.task.name,
                "task_version": self.task.version,
                "model": short_name(self.model_name),
                "setting": self.setting,
                "given": self.given,
                "arguments": {name: as_dict(group) for name, group in self.groups.items()},
                "data_fingerprints": fingerprint_data(self.task, data.data_dir),
                "draws": draws,
            }
        )

    def score(self, stage: str, asker: Asker) -> dict[str, SplitScores]:
        """Score all evaluation sets and put metrics, predictions and costs in the record."""
        from llmft.evaluation.metrics import split_metrics

        found = {}
        for name, rows in self.eval_sets.items():
            with self.meter.phase(f"eval {stage} {name}") as phase:
                scores = found[name] = asker.score(rows, phase)
            columns = {
                "idx": scores.idx,
                "label": scores.labels,
                "prediction": scores.predictions,
                "label_logprobs": list(scores.label_logprobs),
                "token_logprobs": list(scores.token_logprobs),
            }
            self.record.add(stage, name, split_metrics(scores), columns)
        return found

    def finish(self, metrics: dict[str, Any], log: Sequence[dict[str, Any]] = ()) -> None:
        """Write the record of all ranks and say where it is."""
        from llmft.models.gather import all_gather

        costs = combine_ranks(all_gather(self.meter.as_dict())) | {"resumed_from": self.resumed_from}
        sets = {"in_domain": list(self.data.in_domain), "out_of_domain": list(self.data.out_of_domain)}
        self.record.finish({"sets": sets, **metrics}, costs, log)
        if self.record.writes:
            from llmft.runs.show import show_run

            show_run(self.record.path)


def prepare(method: str, groups: Sequence[type], argv: Sequence[str] | None, description: str) -> Job | None:
    """Parse the command line and find the run's record; None where the run has been finished before.

    Args:
        method: its name in the record, unless `--method` gives one; the part that is trained is put behind it.
        groups: argument dataclasses.
        argv: command line without the program's name; None for the process's own.
        description: what the program does, for `--help`.

    Raises:
        InputError: the arguments are unusable.
    """
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    from llmft.models.gather import all_gather

    instances, given = parse(groups, argv, description)
    given = {name: value for name, value in given.items() if name not in IRRELEVANT}
    values = {type(group).__name__: group for group in instances}
    by_type = {base: v for v in values.values() for base in type(v).__mro__}
    data, run, model = by_type[DataArguments], by_type[RunArguments], by_type[ModelArguments]
    task = get_task(data.task_name)
    if data.data_dir is not None and not Path(data.data_dir).is_dir():
        raise InputError(f"--data_dir {data.data_dir}: no such folder; name the one that holds glue/, hans/, ...")
    model_name = model.model_name_or_path or task.default_model
    method = by_type[FineTuningArguments].method if FineTuningArguments in by_type else method
    part = by_type[AdapterArguments].part if AdapterArguments in by_type else None
    name = f"{method}-{part}" if part else method
    deepspeed = run.deepspeed  # a file's name (or, from Python, its content)
    settings = {
        "record_version": RECORD_VERSION,
        "method": name,
        "task": (task.name, task.version),
        "model": fingerprint_model(model_name, model.model_revision),
        "data": fingerprint_data(task, data.data_dir),
        "deepspeed": Path(deepspeed).read_text() if isinstance(deepspeed, str) else deepspeed,
        "devices": (run.device.type, max(1, run.n_gpu), run.world_size),
        "given": given,
    }
    if model.tokenizer_name:
        settings["tokenizer"] = fingerprint_model(model.tokenizer_name, model.model_revision)
    parts = (name, task.name, short_name(model_name))
    record = RunRecord.locate(run.output_dir, parts, settings, writes=run.process_index == 0)
    if all_gather(record.finished)[0] and not run.overwrite_output_dir:  # rank 0's view counts: disks may lag
        if record.writes:
            print(f"finished before: {record.path} (--overwrite_output_dir does it again)")
        return None
    if run.overwrite_output_dir:
        record.clear()
    if run.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed searches for a device, and warns that it found none
    if run.disable_tqdm:
        disable_progress_bar()
    set_seed(run.seed)
    return Job(name, task, model_name, values, given, short_hash(without_seeds(settings)), record, Meter())


def without_seeds(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings but for the seeds of draws and training."""
    return {**settings, "given": {k: v for k, v in settings["given"].items() if k not in ("seed", "data_seed")}}


def run_main(main: Callable[[], None]) -> None:
    """Run an entry script's `main`: bad input becomes one line on stderr and exit status 2."""
    from llmft.models.gather import leave_together

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # raised by peft's calls, not by ours
    try:
        main()
        leave_together()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
