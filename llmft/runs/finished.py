"""Whether this very command line has been finished before, found out without importing anything heavy: a sweep that is started
again passes its finished runs in a fraction of a second each.

A run's real name is the hash that `pipelines/run_identity.py` makes of all that can change its result, which takes torch and
transformers. So a command that has ended leaves a note in `<output_dir>/.finished/`, under its words, folder, environment,
devices and code: its runs, and what each file that it reads was like (size, times, inode) before it was read. Whatever has
changed, or cannot be looked at, sends the command down the long way, which decides anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path

from llmft.runs.launch import this_process
from llmft.runs.model_folder import base_named_in
from llmft.runs.names import DONE
from llmft.runs.notes import say_note

NOTES = ".finished"
"""Folder of the notes, in the output folder."""
OUTPUT_DIR = "logfiles"
"""Default of --output_dir."""
ENVIRONMENT = re.compile(
    r"(LLMFT|ACCELERATE|CUDA|NVIDIA|ROCR|HIP|GPU|ZE|DS)_|SLURM_.*GPU|WANDB_PROJECT"
    r"|(HF_HOME|HF_HUB_CACHE|HUGGINGFACE_HUB_CACHE|XDG_CACHE_HOME|HOME)$"
)
"""Variables that can change a default, the devices that are there, or the place of the hub's cache."""
DEVICES = re.compile(r"nvidia\d+|kfd|renderD\d+|accel\d+|davinci\d+")
"""Names in /dev of what a run may compute on."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What a name on the hub looks like."""
MOST_FILES = 20_000
"""A folder with more is not looked through."""
PROJECT = Path(__file__).parents[2]


@dataclass
class Command:
    """A command line as it was when its process started.

    Attributes:
        note: the file that holds, or would hold, its runs; None where there can be none: ranks of one launch must all go the
            same way.
        files: what it reads -> what that was like.
    """

    note: Path | None = None
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, argv: Sequence[str]) -> Command:
        """A command line, with the script's name in front."""
        try:
            (output_dir,) = _output_dirs(argv) or [OUTPUT_DIR]
            code = [_state(PROJECT / "llmft"), _state(PROJECT / "deepspeed_configs")]
            key = [os.path.realpath(argv[0]), argv[1:], os.getcwd(), _environment(), sys.version, str(PROJECT), code]
            name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
            return cls(Path(output_dir) / NOTES / f"{name}.json" if this_process().world_size == 1 else None)
        except (OSError, ValueError):
            return cls()

    def reads(self, names: Iterable[str], caches: Iterable[str] = ()) -> None:
        """Note what files, folders and models are like that the command is about to read.

        Args:
            names: paths, whether there is anything or not, or names on the hub.
            caches: folders where models of the hub lie, beside the usual one.
        """
        try:
            if self.note is not None:
                self.files |= {str(path): _state(path) for path in _with_bases(names, caches)}
        except (OSError, ValueError):
            self.note = None

    def finished(self) -> bool:
        """Whether all its runs are finished; says where their records are if they are."""
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8")) if self.note else {}
            records = [Path(record) for record in noted.get("records", [])]
            if not records or not all((record / DONE).is_file() for record in records):
                return False
            if any(_state(Path(path)) != state for path, state in noted["files"].items()):
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


@cache
def process_command() -> Command:
    """The command line of this process."""
    return Command.of(sys.argv)


def say_finished(record: Path) -> None:
    """What is printed of a run that is not done again."""
    print(f"finished before: {record} (--overwrite_output_dir does it again)")


def _output_dirs(argv: Sequence[str]) -> list[str]:
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return [value for name, value in pairwise(words) if name in ("--output_dir", "--output-dir")]


def _environment() -> list[object]:
    """What of this machine and its variables can change a run's name."""
    variables = {name: value for name, value in os.environ.items() if ENVIRONMENT.match(name)}
    visible = variables.pop("CUDA_VISIBLE_DEVICES", None)  # a sweep gives any of them: their number counts
    hidden = ("", "-1", "NoDevFiles")
    shown = visible and len(list(takewhile(lambda device: device.strip() not in hidden, visible.split(","))))
    devices = sorted(name for name in os.listdir("/dev") if DEVICES.fullmatch(name)) if os.path.isdir("/dev") else []
    return [sorted(variables.items()), shown, devices, sys.platform, "SLURM_JOB_ID" in os.environ]


def _with_bases(names: Iterable[str], caches: Iterable[str]) -> Iterator[Path]:
    """What is read of these names, and where it would be read from if it were there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    names = list(names)
    for name in names:  # to which bases of adapters are added
        path = Path(name)
        yield path
        if HUB_NAME.fullmatch(name):  # which commit a branch is at, as far as this machine knows
            yield from (Path(folder, f"models--{name}".replace("/", "--"), "refs") for folder in (HF_HUB_CACHE, *caches))
        if path.is_dir():
            yield path.parent / "config.json"  # a run's model is called by it
            base = base_named_in(path)
            if base is not None and base.name not in names:
                names.append(base.name)


def _state(path: Path) -> str:
    """A hash that changes with the content of a file, of all files in a folder, or of a module and those beside it.

    Raises:
        OSError: something cannot be looked at.
        ValueError: it is too much to look at.
    """
    digest = hashlib.sha256(b"folder" if path.is_dir() else b"")
    for file in _files(path):
        status = file.stat() if file.exists() else None
        state = status and (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest.update(f"{str(file)!r} {state}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.suffix == ".py":
        return sorted(path.parent.glob("*.py"))
    if not path.is_dir():
        return [path]

    def failed(error: OSError) -> None:
        raise error

    files: list[Path] = []
    for number, (folder, below, names) in enumerate(os.walk(path, onerror=failed, followlinks=True)):
        below[:] = sorted(name for name in below if name != "__pycache__")
        files += [Path(folder, name) for name in sorted(names)]
        if number + len(files) > MOST_FILES:
            raise ValueError(f"{path} holds too many files")
    return files
