"""The record of one run: a folder whose name depends on everything that can change its result; `DONE` is written last."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llmft.errors import InputError
from llmft.runs.names import DONE, PROGRESS
from llmft.runs.secrets import command_without_secrets, without_secrets
from llmft.runs.store import check_writable, short_hash, whole_file, write_json

LONGEST_FOLDER = 200
"""Maximum bytes of a folder's name; systems allow 255."""
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "deepspeed", "peft", "numpy")


@dataclass
class RunRecord:
    """Writes `config.json`, `metrics.json`, `cost.json`, `predictions.parquet`, `train_log.jsonl` and `DONE`.

    Args:
        path: the run's folder.
        writes: whether this process writes (rank 0); the others make the same calls without effect.
        overwrite: whether to delete a finished run with these settings, once this one has passed all checks. An unfinished one is
            resumed all the same: a preempted job starts with its whole command line again.
    """

    path: Path
    writes: bool = True
    overwrite: bool = False
    stages: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    continued: bool = False
    """Whether an earlier session has started this run."""
    _new: bool = False
    """Whether this session has started it, and nothing outside its folder relies on that."""

    @classmethod
    def locate(cls, output_dir: str, parts: Sequence[str], settings: dict[str, Any], writes: bool) -> RunRecord:
        """The record of the run with these settings: `<output_dir>/<parts...>/<hash of settings>`.

        Raises:
            InputError: the folder cannot be written to.
        """
        path = Path(output_dir).joinpath(*map(folder_name, parts), short_hash(settings))
        if writes:
            check_writable(path, f"--output_dir {output_dir}")
        return cls(path, writes)

    @property
    def finished(self) -> bool:
        """Whether a run with these settings is finished."""
        return (self.path / DONE).is_file()

    @property
    def last_checkpoint(self) -> str | None:
        """The newest complete checkpoint."""
        checkpoint = last_checkpoint(self.checkpoints)
        return None if checkpoint is None else str(checkpoint)

    @property
    def checkpoints(self) -> Path:
        """Where an unfinished run keeps its checkpoints."""
        return self.path / "checkpoints"

    def clear(self) -> None:
        """Delete an earlier run with these settings."""
        if self.writes:
            (self.path / DONE).unlink(missing_ok=True)  # first: a folder that is half removed must not look finished
            shutil.rmtree(self.path, ignore_errors=True)

    def abandon(self) -> None:
        """Leave nothing half-written: remove what this process has written of a run without a checkpoint, or the leftovers in a
        run that has one."""
        if not self.writes:
            return
        if self._new and not self.finished and self.last_checkpoint is None:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.tidy()

    def stay(self) -> None:
        """From here on `abandon` leaves the folder, which tells the next session that this one had started."""
        self._new = False

    def tidy(self) -> None:
        """Remove what a killed session has left behind: temporary files and incomplete checkpoints, or all checkpoints if the
        run is finished."""
        if not self.writes:
            return
        leftovers = [*self.path.glob(".*"), *self.checkpoints.rglob(".*")]
        leftovers += [c for c in self.checkpoints.glob("checkpoint-*") if not (c / PROGRESS).is_file()]
        for path in [self.checkpoints] if self.finished else leftovers:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def add(self, stage: str, eval_set: str, metrics: dict[str, Any], predictions: dict[str, Sequence[Any]]) -> None:
        """Keep the metrics and the per-row predictions (equally long columns) of one set at one stage."""
        self.stages.setdefault(stage, {})[eval_set] = metrics
        self.predictions.append({"stage": stage, "set": eval_set, **predictions})

    def write_config(self, config: dict[str, Any]) -> None:
        """Create the folder and write `config.json`, with the versions and the commit of the code, and without secrets.

        Raises:
            InputError: the folder cannot be created.
        """
        if self.overwrite and self.finished:
            self.clear()
        self.continued = (self.path / "config.json").is_file()
        self.tidy()
        if self.writes:
            self._new = not self.path.exists()
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"--output_dir: {error.filename} cannot be created ({error.strerror}); choose another folder"
                ) from error
            write_json(self.path / "config.json", without_secrets({**config, "environment": environment()}))

    def write_results(self, metrics: dict[str, Any], log: Sequence[dict[str, Any]] = ()) -> None:
        """Write everything except the costs."""
        if not self.writes:
            return
        import pandas as pd

        if log:
            with whole_file(self.path / "train_log.jsonl") as aside:
                aside.write_text("".join(json.dumps(entry) + "\n" for entry in log), encoding="utf-8")
        rows = pd.concat([pd.DataFrame(columns) for columns in self.predictions], ignore_index=True)
        for name in rows.columns.intersection(["target", "prediction"]):  # other tasks' are labels, this run's may be texts
            if rows[name].map(type).eq(str).any():
                rows[name] = rows[name].map(str)
        with whole_file(self.path / "predictions.parquet") as aside:
            rows.to_parquet(aside)
        write_json(self.path / "metrics.json", {"stages": self.stages, **metrics})

    def write_costs(self, costs: dict[str, Any]) -> None:
        """Write the costs."""
        if self.writes:
            write_json(self.path / "cost.json", costs)

    def finish(self) -> None:
        """Write `DONE`, after everything else, and remove the checkpoints."""
        if not self.writes:
            return
        with whole_file(self.path / DONE) as aside:
            aside.write_text("")
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder of checkpoints; None if there is none."""
    return next(reversed(whole_checkpoints(folder)), None)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder of checkpoints, sorted by step."""
    whole = [progress.parent for progress in folder.glob(f"checkpoint-*/{PROGRESS}")]
    return sorted(whole, key=lambda checkpoint: int(checkpoint.name.split("-")[1]))


@contextmanager
def readable(checkpoint: str | Path | None) -> Iterator[None]:
    """Context: files of the checkpoint are read.

    Raises:
        InputError: one of them is missing or damaged.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise InputError(
            f"--output_dir: {checkpoint} is damaged ({type(error).__name__}) and cannot be resumed from; remove that folder to "
            "resume from an earlier one, or the run's to start anew"
        ) from error


def folder_name(name: str) -> str:
    """A name made safe as that of a single folder: it cannot lead out of its parent, whatever a model's path or config says."""
    plain = re.sub(r"[/\\\x00-\x1f]", "-", name).encode()[:LONGEST_FOLDER].decode(errors="ignore")
    return plain if plain.strip(".") else plain.replace(".", "-") or "-"


def environment() -> dict[str, Any]:
    """Versions, commit and command line, for the record; none of these changes the run's name."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        **git_state(Path(__file__)),
        "command": command_without_secrets(sys.argv),
    }


def git_state(file: Path) -> dict[str, Any]:
    """Commit of the checkout that tracks `file`, and whether it has changes; None if no checkout tracks it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(file.parent), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}
