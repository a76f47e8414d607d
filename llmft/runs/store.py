"""Files that appear whole or not at all, and the short names of settings."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Yields a path to write to, beside `path`; when the block ends well the file is synced and takes the name `path`."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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
