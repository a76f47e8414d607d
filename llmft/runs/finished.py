"""Whether this very command line has been finished before, found out without importing anything heavy: a sweep that is started
again passes its finished runs in a fraction of a second each.

A run's real name is the hash that `pipelines/prepare.py` makes of all that can change its result, which takes torch and
transformers. So a command that has ended notes its runs in `<output_dir>/.finished/`, under everything that could lead to other
runs: its words, folder, environment and devices, the code, and each file and folder that a word names (size, times, inode).
Whatever has changed, or cannot be looked at, sends the command down the long way, which decides anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from llmft.errors import InputError
from llmft.runs.launch import this_process
from llmft.runs.model_folder import base_named_in
from llmft.runs.names import DONE
from llmft.runs.notes import say_note

NOTES = ".finished"
"""Folder of the notes, in the output folder."""
OUTPUT_DIR = "logfiles"
"""Default of --output_dir."""
DEFAULT_MODEL = "facebook/opt-125m"
"""What --model_name_or_path is of the tasks whose default is on the hub."""
NEEDS_WORK = {"overwrite_output_dir", "push_to_hub"}
"""Arguments for which there is something to do though the run is finished."""
NOT_READ = {
    "output_dir", "cache_dir", "dataset_cache_dir", "teacher_cache_dir", "logging_dir", "wandb_output_dir",
}  # fmt: skip
"""Arguments whose files are not what a run goes by, and change with every run."""
TEXTS = ("pattern", "tokens", "prefix", "separate_shots_by", "delimiter", "task_description", "words", "column", "label_names")
"""What names of arguments end in whose value is text, in which anything may look like a path."""
ENVIRONMENT = re.compile(r"(LLMFT|ACCELERATE|CUDA|NVIDIA|ROCR|HIP|GPU|ZE|DS)_|SLURM_.*GPU|WANDB_PROJECT")
"""Variables that can change a default or the devices that are there."""
DEVICES = re.compile(r"nvidia\d+|kfd|renderD\d+|accel\d+|davinci\d+")
"""Names in /dev of what a run may compute on."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What a name on the hub looks like."""
MOST_FILES = 20_000
"""A folder with more is not looked through."""
PROJECT = Path(__file__).parents[2]


class Doubt(Exception):
    """Something cannot be looked at: the long way decides."""


@dataclass(frozen=True)
class Command:
    """A command line as it was when its process started.

    Args:
        note: the file that holds, or would hold, its runs; None where there can be none: ranks of one launch must all go the
            same way, and a run that is to be done again, or pushed, goes the long one.
        files: hash of what the files were that its words name. They are looked at before anything of them is read, so that a
            change in between is a difference from the note.
    """

    note: Path | None = None
    files: str = ""

    @classmethod
    def seen(cls, argv: Sequence[str] | None = None) -> Command:
        """The command line of this process, or a given one (with the script's name in front)."""
        words = list(sys.argv if argv is None else argv)
        try:
            if this_process().world_size > 1:
                raise Doubt
            arguments = list(_arguments(words[1:]))
            if any(name in NEEDS_WORK for name, _ in arguments):
                raise Doubt
            output_dirs = [value for name, value in arguments if name == "output_dir" and value is not None] or [OUTPUT_DIR]
            (output_dir,) = output_dirs
            key = [os.path.realpath(words[0]), words[1:], os.getcwd(), _environment(), sys.version, str(PROJECT)]
            name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
            return cls(Path(output_dir) / NOTES / f"{name}.json", _identity(_named(arguments)))
        except (Doubt, OSError, ValueError, InputError):
            return cls()

    def finished(self) -> bool:
        """Whether all its runs are finished; says where their records are if they are."""
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8")) if self.note else {}
            records = [Path(record) for record in noted.get("records", [])]
            if not records or noted["files"] != self.files or not all((record / DONE).is_file() for record in records):
                return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no note, or none of ours
            return False
        for record in records:
            say_finished(record)
        return True

    def keep(self, records: Sequence[Path]) -> None:
        """Note that its runs are these, and finished."""
        from llmft.runs.store import write_json

        if self.note and records and all((record / DONE).is_file() for record in records):
            try:
                self.note.parent.mkdir(exist_ok=True)
                write_json(self.note, {"records": list(map(str, records)), "files": self.files})
            except OSError as error:  # the runs are finished all the same
                say_note(f"{self.note} cannot be written ({error.strerror}); the command is not recognised early")


def say_finished(record: Path) -> None:
    """What is printed of a run that is not done again."""
    print(f"finished before: {record} (--overwrite_output_dir does it again)")


def _arguments(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Pairs of an argument's name and one of its values, None for one that has (perhaps only so far) none."""
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            yield name, value if equals else None
        else:
            yield name, word


def _environment() -> list[object]:
    """What of this machine and its variables can change a run's name."""
    variables = {name: value for name, value in os.environ.items() if ENVIRONMENT.match(name)}
    visible = variables.pop("CUDA_VISIBLE_DEVICES", None)  # a sweep gives any of them: their number counts
    hidden = ("", "-1", "NoDevFiles")
    shown = visible and len(list(takewhile(lambda device: device.strip() not in hidden, visible.split(","))))
    devices = sorted(name for name in os.listdir("/dev") if DEVICES.fullmatch(name)) if os.path.isdir("/dev") else []
    return [sorted(variables.items()), shown, devices, platform.system(), platform.machine(), "SLURM_JOB_ID" in os.environ]


def _named(arguments: Sequence[tuple[str, str | None]]) -> list[Path]:
    """Whatever the values could name as files or folders, or on the hub, whether it is there or not; the code, too."""
    from huggingface_hub.constants import HF_HUB_CACHE

    values = [value for name, value in arguments if value and name not in NOT_READ and not name.endswith(TEXTS)]
    values.append(os.environ.get("LLMFT_DATA_DIR", ""))
    if not any(name == "model_name_or_path" for name, _ in arguments):
        values.append(DEFAULT_MODEL)
    values += _modules_beside([value for name, value in arguments if name == "metric" and value])
    parts = dict.fromkeys(part for value in values for part in (value, *(word.strip() for word in value.split(","))) if part)
    waiting = [part for part in parts if _may_be_path(part)]
    caches = [HF_HUB_CACHE, *(value for name, value in arguments if value and name == "cache_dir")]
    found = dict.fromkeys((Path(__file__).parents[1], PROJECT / "deepspeed_configs"))
    while waiting:
        path = Path(waiting.pop())
        if path in found:
            continue
        found[path] = None
        if HUB_NAME.fullmatch(str(path)):  # which commit a branch is at, as far as this machine knows
            found |= dict.fromkeys(Path(cache, f"models--{path}".replace("/", "--"), "refs") for cache in caches)
        if path.is_dir():
            found[path.parent / "config.json"] = None  # a run's model is called by it
            base = base_named_in(path)
            if base is not None:
                waiting.append(base.name)
    return list(found)


def _modules_beside(metrics: Sequence[str]) -> list[str]:
    """The modules that those of --metric may import from beside them."""
    files = [Path(word.strip()) for value in metrics for word in value.split(",")]
    return [str(module) for file in files if file.suffix == ".py" for module in sorted(file.parent.glob("*.py"))]


def _may_be_path(text: str) -> bool:
    """Whether a system takes it as a path; it would refuse to look at a long text."""
    return "\0" not in text and len(os.fsencode(text)) < 4096 and all(len(os.fsencode(part)) < 256 for part in text.split("/"))


def _identity(paths: Sequence[Path]) -> str:
    """Hash of what lies there: of every file its name, size, times and inode.

    Raises:
        Doubt: it is too much to look at.
        OSError: something cannot be looked at.
    """
    digest, count = hashlib.sha256(), 0

    def failed(error: OSError) -> None:
        raise error

    for path in paths:
        digest.update(f"{str(path.absolute())!r} {_state(path)}\n".encode(errors="surrogatepass"))
        for folder, below, files in os.walk(path, onerror=failed, followlinks=True) if path.is_dir() else ():
            below[:] = sorted(name for name in below if name != "__pycache__")
            count += len(files) + 1
            if count > MOST_FILES:
                raise Doubt
            for name in sorted(files):
                digest.update(f"{folder!r} {name!r} {_state(Path(folder, name))}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _state(path: Path) -> str:
    """What changes with a file's content; of a folder that it is one: its own times change with caches in it."""
    if path.is_dir():
        return "folder"
    if not path.exists():
        return "absent"
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
