"""Files that appear whole or not at all, and the short names of settings."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError

from llmft.errors import InputError

DISK = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ESTALE ENOTDIR EISDIR EEXIST ENAMETOOLONG ELOOP EMFILE".split()
}
"""What the system says where it is the user's to mend that a file cannot be written: room, rights, names, the disk itself."""
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What a network disk says that takes no locks."""
DISK_TEXTS = (*(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)), "PytorchStreamWriter failed")
"""The same from libraries that write by themselves and say why in words alone (safetensors), or not at all (torch)."""
ASIDE = ".llmft-aside"
"""What names of files end in that are being written."""
WEEK = 7 * 24 * 60 * 60
"""Seconds behind which a file that another machine has left aside is no longer being written."""


@contextmanager
def writing(output_dir: str) -> Iterator[None]:
    """Within, files are written below `output_dir`.

    Raises:
        InputError: the system would not let that be; files that were whole before still are.
    """
    try:
        yield
    except Exception as error:  # each library has its own for this
        said = " ".join(str(error).split())[:200]
        of_system = isinstance(error, OSError) and error.errno in DISK
        in_words = isinstance(error, OSError | RuntimeError | SafetensorError) and any(text in said for text in DISK_TEXTS)
        if not (of_system or in_words):
            raise
        reason, where = (error.strerror or said, error.filename) if isinstance(error, OSError) else (said, None)
        place = f" at {where}" if where else ""
        raise InputError(
            f"--output_dir {output_dir}: cannot be written to ({reason}{place}); make room or choose another folder, "
            "then the same command goes on from the last checkpoint"
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to, beside `path`; when the block ends well the file is synced and takes the name `path`. What
    killed processes have left aside in the folder goes away first."""
    with _writing_in(path.parent):
        start = path.name[:40]  # any name that a system takes leaves room for the rest
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{start}.", suffix=f".{_machine()}{ASIDE}")
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            sync(aside)
            aside.chmod(0o666 & ~_umask())
            aside.replace(path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def _writing_in(folder: Path) -> Iterator[None]:
    """Within, others know that a file is being written aside in the folder. Where nobody else is at it, what was left goes first.

    Writers share a lock of the folder itself: it leaves no file, and the system lets go of it when its holder dies. On network
    disks it may reach no further than this machine. Where there is none, nothing is removed.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_leftovers(folder)
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Remove files written aside, while nobody on this machine writes any; those of other machines when they are old."""
    for path in folder.glob(f".*{ASIDE}"):
        with suppress(OSError):  # another user's, or gone
            if path.name.endswith(f".{_machine()}{ASIDE}") or time.time() - path.stat().st_mtime > WEEK:
                path.unlink()


@cache
def _machine() -> str:
    """Names the running system: processes under it see each other's locks."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
    except OSError:
        name = socket.gethostname()
    return short_hash(name)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`; when the block ends well it is synced and takes the name `path`, an older one going
    away."""
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    aside.chmod(0o777 & ~_umask())
    try:
        yield aside
        sync_folder(aside)
        shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Have the system put everything in it on the disk itself: what is written behind it must not survive it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Have the system put a file's content, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Held by one process at a time for the file `path`; the system lets go of it when its holder dies. Where the disk takes no
    locks, a note says so."""
    with path.with_name(f".{path.name}.lock").open("w") as handle:
        flock(handle, fcntl.LOCK_EX, path.parent)
        yield


def flock(handle: TextIO, how: int, folder: Path) -> None:
    """Lock an open file in `folder`; a note, and no lock, where the disk takes none.

    Raises:
        BlockingIOError: another process has it, and `how` says not to wait.
    """
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"note: {folder} takes no locks ({error.strerror}); start no run twice at a time", file=sys.stderr)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=True) + "\n"
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def short_hash(value: Any) -> str:
    """Twelve hex digits that change when anything in the (JSON-able) `value` does."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
