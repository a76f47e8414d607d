"""Whether this exact command line has finished before, determined without heavy imports: a restarted sweep skips its finished
runs in a fraction of a second each.

A run's real name is the hash that `pipelines/run_identity.py` computes from everything that can change its result, which needs
torch and transformers. So a finished command leaves a note in `<output_dir>/.finished/`, keyed by its arguments, folder,
environment, devices and code: its runs, and the state (size, times, inode) of each file that it reads, taken before reading.
If anything has changed or cannot be examined, the command takes the slow path, which decides again.
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
"""Variables that can change a default, the available devices, or the location of the hub's cache."""
DEVICE_IDS = re.compile(r"(CUDA|NVIDIA|ROCR|HIP)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK|SLURM_(JOB|STEP)_GPUS")
"""Those of them that list devices. A sweep or Slurm may assign any, so only their number matters."""
DEVICES = re.compile(r"nvidia\d+|kfd|renderD\d+|accel\d+|davinci\d+")
"""Names in /dev of devices that a run may compute on."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""Pattern of names on the hub."""
MOST_FILES = 20_000
"""A folder with more files is not examined."""
PROJECT = Path(__file__).parents[2]


@dataclass
class Command:
    """A command line as it was when its process started.

    Attributes:
        note: the file that holds, or would hold, its runs; None if there can be none: all ranks of one launch must take the
            same path.
        files: what it reads -> its state at that time.
    """

    note: Path | None = None
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, argv: Sequence[str]) -> Command:
        """The command of these words; the first one is the script's name."""
        try:
            (output_dir,) = _output_dirs(argv) or [OUTPUT_DIR]
            code = [_state(PROJECT / "llmft"), _state(PROJECT / "deepspeed_configs")]
            key = [os.path.realpath(argv[0]), argv[1:], os.getcwd(), _environment(), sys.version, str(PROJECT), code]
            name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
            return cls(Path(output_dir) / NOTES / f"{name}.json" if this_process().world_size == 1 else None)
        except (OSError, ValueError):
            return cls()

    def reads(self, names: Iterable[str], caches: Iterable[str] = ()) -> None:
        """Record the state of the files, folders and models that the command is about to read.

        Args:
            names: paths, existing or not, or names on the hub.
            caches: folders with hub models, in addition to the default one.
        """
        try:
            if self.note is not None:
                self.files |= {str(path): _state(path) for path in _with_bases(names, caches)}
        except (OSError, ValueError):
            self.note = None

    def finished(self) -> bool:
        """Whether all its runs are finished; if so, prints where their records are."""
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8")) if self.note else {}
            records = [Path(record) for record in noted.get("records", [])]
            if not records or not all((record / DONE).is_file() for record in records):
                return False
            if any(_state(Path(path)) != state for path, state in noted["files"].items()):
                return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no note, or not one of ours
            return False
        for record in records:
            say_finished(record)
        return True

    def keep(self, records: Sequence[Path]) -> None:
        """Record that these are its runs and that they are finished."""
        from llmft.runs.store import write_json

        if self.note and records and all((record / DONE).is_file() for record in records):
            try:
                self.note.parent.mkdir(exist_ok=True)
                write_json(self.note, {"records": list(map(str, records)), "files": self.files})
            except OSError as error:  # the runs are finished nevertheless
                say_note(f"{self.note} cannot be written ({error.strerror}); restarts of this command will not be skipped early")


@cache
def process_command() -> Command:
    """The command line of this process."""
    return Command.of(sys.argv)


def say_finished(record: Path) -> None:
    """Print the line about a run that is skipped because it is finished."""
    print(f"already finished: {record} (--overwrite_output_dir runs it again)")


def _output_dirs(argv: Sequence[str]) -> list[str]:
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return [value for name, value in pairwise(words) if name in ("--output_dir", "--output-dir")]


def _environment() -> list[object]:
    """Properties and variables of this machine that can change a run's name."""
    named = sorted(item for item in os.environ.items() if ENVIRONMENT.match(item[0]))
    variables = [(name, _number_of_devices(value) if DEVICE_IDS.fullmatch(name) else value) for name, value in named]
    devices = sorted(name for name in os.listdir("/dev") if DEVICES.fullmatch(name)) if os.path.isdir("/dev") else []
    return [variables, devices, sys.platform, "SLURM_JOB_ID" in os.environ]


def _number_of_devices(listed: str) -> int:
    """How many devices such a variable leaves visible: those before the first entry that is none."""
    return len(list(takewhile(lambda device: device.strip() not in ("", "-1", "NoDevFiles"), listed.split(","))))


def _with_bases(names: Iterable[str], caches: Iterable[str]) -> Iterator[Path]:
    """The paths that are read for these names, including those that would be read if they existed."""
    from huggingface_hub.constants import HF_HUB_CACHE

    names = list(names)
    for name in names:  # bases of adapters are appended below
        path = Path(name)
        yield path
        if HUB_NAME.fullmatch(name):  # the commit of a branch, as far as this machine knows
            yield from (Path(folder, f"models--{name}".replace("/", "--"), "refs") for folder in (HF_HUB_CACHE, *caches))
        if path.is_dir():
            yield path.parent / "config.json"  # the name of a run's model is in it
            base = base_named_in(path)
            if base is not None and base.name not in names:
                names.append(base.name)


def _state(path: Path) -> str:
    """A hash that changes with the content of a file, of all files in a folder, or of a module and the modules next to it.

    Raises:
        OSError: something cannot be examined.
        ValueError: there are too many files.
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
