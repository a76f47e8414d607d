"""Puts adapters together that were trained on one document each, and asks each alone, and all together, about every document.
Cartridges are concatenated before the prompt, LoRA adapters are merged. The questions are asked by eval.py, whose records the
report reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from llmft.arguments.command_line import make, read
from llmft.arguments.composing import ComposeArguments
from llmft.arguments.context import WritingArguments
from llmft.arguments.data import DataArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.flags import default_of, flags_of
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import RunArguments
from llmft.cost.meter import open_meter
from llmft.cost.phases import combine_ranks
from llmft.errors import InputError
from llmft.models.identity import fingerprint_model
from llmft.pipelines import in_context
from llmft.runs.launch import this_process
from llmft.runs.model_folder import HEAD_SETTINGS, PEFT_SETTINGS, base_named_in, read_settings, student_settings
from llmft.runs.names import DONE
from llmft.runs.record import environment
from llmft.runs.store import short_hash, whole_folder, write_json, writing
from llmft.runs.summary import arguments_of
from llmft.tasks.questions import NAMES
from llmft.tasks.table import TASKS

GROUPS = (ComposeArguments,)
KINDS = {"LORA": "lora", "CARTRIDGE": "cartridge"}
"""Kinds of adapters that can be put together, by peft's name."""
CARTRIDGES = "joined"
"""Name of a composition of cartridges; a composition of LoRA adapters has the name of the merging method."""
ASKED_BY = {
    ModelArguments: [field.name for field in fields(ModelArguments) if not field.name.startswith(("model_", "gguf"))],
    DataArguments: [field.name for field in fields(DataArguments) if field.name not in ("document_column", "task_description")],
    WritingArguments: [field.name for field in fields(WritingArguments)],
    RunArguments: ["data_seed", "use_cpu", "per_device_eval_batch_size", "max_batch_tokens"],
}
"""Flags of eval.py that make it ask a run's questions as the run did."""
SUMMARY = "composition.json"


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Put the adapters of runs together; ask each of them, and all together, about every run's document; show what breaks.

    Returns:
        An empty list: the records of the models are those of eval.py.

    Raises:
        InputError: the arguments are unusable, or the adapters cannot be combined.
    """
    (flags,) = make(GROUPS, read(GROUPS, argv, __doc__)[0])
    if this_process().world_size > 1:
        raise InputError("WORLD_SIZE: adapters are put together by one process; start it without a launcher")
    runs = [DocumentRun.read(Path(folder)) for folder in flags.folders]
    check_alike(runs, flags)
    with writing(flags.output_dir):
        folder, students = put_together(runs, flags)
    rows = [ask(run, [other.student for other in runs], students, flags.output_dir) for run in runs]
    with writing(flags.output_dir):
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        write_json(folder / SUMMARY, summary | {"documents": rows})
    show(rows, list(students))
    print(f"composed: {folder}")
    return []


@dataclass(frozen=True)
class DocumentRun:
    """A finished run whose student is an adapter.

    Attributes:
        path: its folder.
        config: its `config.json`.
        metrics: its `metrics.json`.
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> DocumentRun:
        """The run in a folder.

        Raises:
            InputError: there is none, or its student is not an adapter that can be put together.
        """
        if not (path / DONE).is_file() or not (path / "model").is_dir():
            raise InputError(f"--runs {path}: is not a finished run with a saved student; give the folder of one")
        run = cls(path, *(json.loads((path / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "metrics")))
        if run.kind is None:
            raise InputError(f"--runs {path}: its student is neither LoRA nor a cartridge; only these can be put together")
        if run.settings.get("target_parameters"):
            raise InputError(f"--runs {path}: peft cannot merge LoRA on experts; train with --lora_targets query-value")
        return run

    @property
    def student(self) -> Path:
        """The folder of its adapter."""
        return self.path / "model"

    @property
    def kind(self) -> str | None:
        """One of `KINDS`; None for another student, or a classifier."""
        file = self.student / PEFT_SETTINGS
        return KINDS.get(self.settings["peft_type"]) if file.is_file() and not (self.student / HEAD_SETTINGS).is_file() else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of its adapter, in peft's format."""
        return read_settings(self.student / PEFT_SETTINGS)

    @cached_property
    def base(self) -> tuple[str, str | None]:
        """What identifies the adapter's base model: its content, and the precision."""
        base = base_named_in(self.student)
        content = fingerprint_model(base.name, base.revision, f"--runs {self.path}", gguf_file=base.gguf_file)
        return content, student_settings(self.student).get("dtype")

    @property
    def headline(self) -> str:
        """The main metric of its questions."""
        return self.metrics["headline"]["name"]

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The values of its flags."""
        return arguments_of(self.config)

    @property
    def document(self) -> str:
        """The name in the table of what it was trained on."""
        files = self.arguments.get("context_file") or self.arguments.get("context_dir")
        return Path(files).name if files else f"{self.config['task']}, data seed {self.arguments['data_seed']}"

    @property
    def ends_as_shown(self) -> bool:
        """Whether its answers ended with what ends those of its teacher, which read demonstrations."""
        taught = DistillationArguments.__name__ in self.config["arguments"] and any(self.config["draws"]["demonstrations"])
        task = TASKS.get(self.config["task"])  # None for one's own files of labels
        return taught and task is not None and task.answer == "text" and not task.stops

    @property
    def words(self) -> list[str]:
        """The flags with which eval.py asks its questions without a context."""
        given = dict(self.arguments)
        for name in ("pattern", "target_prefix", "target_tokens"):
            given[name] = given[name] if given.get(f"student_{name}") is None else given[f"student_{name}"]
        separator = given["separate_shots_by"]
        if self.ends_as_shown and separator and "|" not in separator and not given.get("chat") and given.get("stop") is None:
            given["stop"] = separator
        if given["task_name"] in NAMES and given["validation_file"] is None:
            given["validation_file"] = given.get("query_file")
        defaults = {name: default_of(flags_of(group)[name][0]) for group, names in ASKED_BY.items() for name in names}
        read_by_eval = {name for group in ASKED_BY for name, (_, rules) in flags_of(group).items() if rules.evaluation == "read"}
        values = {name: given.get(name, default) for name, default in defaults.items()}  # an older record lacks newer flags
        asked = [name for name in defaults if values[name] != defaults[name] and (name in read_by_eval or name == "use_cpu")]
        return ["--context", "none", *(f"--{name}={values[name]}" for name in asked)]


def check_alike(runs: Sequence[DocumentRun], flags: ComposeArguments) -> None:
    """Check that adapters can be combined, and their scores shown in one table.

    Raises:
        InputError: they have different kinds, bases or main metrics, or ranks that a requested method cannot merge.
    """
    first = runs[0]
    for run in runs[1:]:
        if (run.kind, run.base) != (first.kind, first.base):
            other = f"its student has another kind or base model than that of {first.path}"
            raise InputError(f"--runs {run.path}: {other}; give runs that agree in both")
        if run.headline != first.headline:
            other = f"its main metric is {run.headline}, and that of {first.path} {first.headline}"
            raise InputError(f"--runs {run.path}: {other}; give runs that are scored by the same (--rules, --task)")
    if first.kind != "lora":
        if flags.merge is not None:
            merge = f"--merge {flags.merge}"
            raise InputError(f"{merge}: is for LoRA adapters, and cartridges are concatenated; drop this flag")
        return
    ranks = sorted({run.settings["r"] for run in runs})
    added = next((how for how in flags.merges if how != "cat"), None)
    if len(ranks) > 1 and added is not None:
        raise InputError(f"--merge {added}: the adapters have different ranks, {', '.join(map(str, ranks))}; use cat")


def put_together(runs: Sequence[DocumentRun], flags: ComposeArguments) -> tuple[Path, dict[str, Path]]:
    """Write the adapters as one, with each requested method, unless that exists.

    Returns:
        The parent folder, and the folder of each composition by its method.
    """
    kind, names = runs[0].kind, flags.merges if runs[0].kind == "lora" else (CARTRIDGES,)
    how = {"merges": names, "merge_weight": flags.merge_weight, "ties_density": flags.ties_density} if kind == "lora" else {}
    contents = [fingerprint_model(str(run.student), "main", "--runs") for run in runs]
    folder = Path(flags.output_dir) / "composed" / short_hash([contents, how])
    students = {name: folder / f"{runs[0].config['model']}-{kind}-{name}" for name in names}
    if (folder / SUMMARY).is_file():
        return folder, students
    meter = open_meter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with meter.measuring(), meter.phase("compose"), whole_folder(folder) as aside:
        for student in students.values():
            (aside / student.name).mkdir()
        compose(runs, {name: aside / student.name for name, student in students.items()}, flags)
        told = {"runs": [str(run.path) for run in runs], "kind": kind, **how}
        write_json(aside / SUMMARY, told | {"cost": combine_ranks([meter.as_dict()]), "environment": environment()})
    return folder, students


def compose(runs: Sequence[DocumentRun], folders: Mapping[str, Path], flags: ComposeArguments) -> None:
    """Write the adapters of runs as one into each folder, with the folder's method."""
    from llmft.models.load import load_model
    from llmft.models.parts import composing

    adapters = [run.student for run in runs]
    if CARTRIDGES in folders:
        composing.join_cartridges(adapters, folders[CARTRIDGES])
        return
    how = {name: runs[0].arguments[name] for name in ("cache_dir", "tokenizer_name", "trust_remote_code")}
    model, _ = load_model(str(adapters[0]), dtype=runs[0].base[1] or "float32", **how)
    names = composing.add_adapters(model, adapters)
    for merge, folder in folders.items():
        composing.merge_adapters(model, names, merge, flags.merge_weight, flags.ties_density)
        composing.save_merged(model, merge, adapters, folder)


def ask(run: DocumentRun, alone: Sequence[Path], together: Mapping[str, Path], output_dir: str) -> dict[str, Any]:
    """Ask each adapter alone, and all together, the questions of one run.

    Returns:
        Document and headline, and for each metric the scores without an adapter, with the run's own, with each other, with all.
    """
    headline, sets = run.headline, run.metrics["sets"]["in_domain"]
    records = {}
    for student in (*alone, *together.values()):
        words = [*run.words, "--output_dir", output_dir, "--model_name_or_path", str(student)]
        (records[student],) = in_context.main(words)
    stages = {student: json.loads((path / "metrics.json").read_text())["stages"]["icl"] for student, path in records.items()}
    row: dict[str, Any] = {"document": run.document, "run": str(run.path), "headline": headline}
    row["records"] = {str(student): str(path) for student, path in records.items()}
    for metric in (headline, "nll") if "nll" in run.metrics["stages"]["after"][sets[0]] else (headline,):
        scores = {student: stage[sets[0]][metric] for student, stage in stages.items()}
        row[metric] = {
            "without": run.metrics["stages"].get("before", {}).get(sets[0], {}).get(metric),
            "own": scores[run.student],
            "others": [scores[student] for student in alone if student != run.student],
            "together": {name: scores[student] for name, student in together.items()},
        }
    return row


def show(rows: Sequence[Mapping[str, Any]], together: Sequence[str]) -> None:
    """Print a table for each metric: one row per document, and their means."""
    from rich.table import Table

    from llmft.runs.summary import plain_console

    for metric in dict.fromkeys((rows[0]["headline"], *(name for name in ("nll",) if name in rows[0]))):
        table = Table(title=f"{metric} on each document's questions", title_justify="left")
        for name in ("document", "no adapter", "own alone", "another alone", *(f"together: {name}" for name in together)):
            table.add_column(name, justify="left" if name == "document" else "right")
        lines = [
            [row[metric]["without"], row[metric]["own"], fmean(row[metric]["others"]), *row[metric]["together"].values()]
            for row in rows
        ]
        for name, values in zip([*(row["document"] for row in rows), "mean"], [*lines, means(lines)], strict=True):
            table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in values))
        plain_console().print(table)


def means(lines: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean of each column; None for one that lacks a value."""
    return [None if None in column else fmean(column) for column in zip(*lines, strict=True)]
