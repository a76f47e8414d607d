"""Files that are written completely or not at all, and short hashes of settings."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError

from llmft.errors import InputError, one_line
from llmft.runs.notes import say_note

DISK = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ESTALE ENOTDIR EISDIR EEXIST ENAMETOOLONG ELOOP EMFILE".split()
}
"""Errors of writing a file that the user can fix: space, permissions, names, the disk itself."""
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Errors of a network disk that does not support locks."""
DISK_TEXTS = (*(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)), "PytorchStreamWriter failed")
"""The same errors from libraries that write files themselves and give the reason only as text (safetensors) or not at all
(torch)."""
ASIDE = ".llmft-aside"
"""Ending of the names of files that are being written."""
TRIES = 1000
"""How often to retry creating a folder, or taking a lock, that other processes remove in the meantime."""
WEEK = 7 * 24 * 60 * 60
"""Seconds after which a temporary file of another machine counts as abandoned."""


def check_writable(folder: Path, flag: str) -> None:
    """Check that a folder can be made, or written to if it is there.

    Args:
        flag: flag and value, for the error.

    Raises:
        InputError: it cannot.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InputError(f"{flag}: is not a valid folder name ({error.strerror}); choose another") from error
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(f"{flag}: {there} is not a writable folder; choose another")


@contextmanager
def writing(place: str, flag: str = "--output_dir") -> Iterator[None]:
    """Context: files are written at this place, under `output_dir` or where another flag says.

    Raises:
        InputError: the system does not permit it; files that were complete before still are.
    """
    try:
        yield
    except Exception as error:  # each library raises its own
        text = one_line(error)
        of_system = isinstance(error, OSError) and error.errno in DISK
        in_words = isinstance(error, OSError | RuntimeError | SafetensorError) and any(words in text for words in DISK_TEXTS)
        if not (of_system or in_words):
            raise
        reason, where = (error.strerror or text, error.filename) if isinstance(error, OSError) else (text, None)
        found = f" at {where}" if where else ""
        resumes = " to resume at the last checkpoint" if flag == "--output_dir" else ""
        raise InputError(
            f"{flag} {place}: cannot be written to ({reason}{found}); free some space or choose another folder, "
            f"then run the same command again{resumes}"
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; when the block succeeds, what was written is synced and gets the name `path`.

    Until then the file has no name, if the system supports that, so that nothing is left of it whenever the process is killed.
    A nameless file cannot replace another one: if `path` exists, the new file gets a temporary name for an instant. On other
    systems it has one all along. Temporary files that killed processes have left in the folder are removed first.
    """
    with _writing_in(path.parent) as folder, _nameless(folder) as handle:
        if handle is None:
            with _named_beside(path) as aside:
                aside.touch(0o666)
                yield aside
                sync(aside)
        else:
            nameless = Path(f"/proc/self/fd/{handle}")
            try:
                yield nameless
            except OSError as error:
                if error.filename is not None and Path(error.filename) == nameless:
                    error.filename = str(path)  # a name that means something to users
                raise
            os.fsync(handle)
            _give_name(handle, folder, path)
        os.fsync(folder)


@contextmanager
def _nameless(folder: int) -> Iterator[int | None]:
    """A new file without a name in an open folder; None if the system does not support such files."""
    try:
        handle = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o666, dir_fd=folder) if os.path.exists("/proc/self/fd") else None
    except (AttributeError, OSError):  # another system or disk; any other problem also affects a file with a name
        handle = None
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _give_name(handle: int, folder: int, path: Path) -> None:
    """Give a nameless file in an open folder the name `path`."""
    nameless = f"/proc/self/fd/{handle}"
    link = partial(os.link, nameless, dst_dir_fd=folder)  # with a folder it is linkat, which follows this symbolic link
    try:
        link(path.name)
        return
    except FileExistsError:
        can_link = True
    except OSError:  # a disk that cannot name such files
        can_link = False
    with _named_beside(path) as aside:
        if can_link:
            link(aside.name)
        else:
            shutil.copyfile(nameless, aside)
            sync(aside)


@contextmanager
def _named_beside(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` for a file that is renamed to `path` when the block succeeds, and removed otherwise."""
    start = path.name[:40]  # leaves room for the rest, however long the name is
    aside = path.with_name(f".{start}.{secrets.token_hex(4)}.{_machine()}{ASIDE}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _writing_in(folder: Path) -> Iterator[int]:
    """Context: the folder is open, and others know that a file is being written in it. If nobody else is writing, leftovers are
    removed first.

    Writers share a lock on the folder itself: it leaves no file, and the system releases it when its holder dies. On network
    disks it may only apply to this machine. Without locks, nothing is removed.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_leftovers(folder)
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield handle
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files while nobody on this machine is writing; those of other machines only when they are old."""
    for path in folder.glob(f".*{ASIDE}"):
        with suppress(OSError):  # another user's, or already removed
            if path.name.endswith(f".{_machine()}{ASIDE}") or time.time() - path.stat().st_mtime > WEEK:
                path.unlink()


@cache
def _machine() -> str:
    """Identifies the running system: its processes see each other's locks."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
    except OSError:
        name = socket.gethostname()
    return short_hash(name)


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yields an empty folder next to `path`; when the block succeeds, it is synced and renamed to `path`.

    Args:
        replace: remove an older folder of that name. If False, a non-empty one stays, and an OSError is raised.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.mkdir()
    mode = aside.stat().st_mode & 0o666
    try:
        yield aside
        for file in filter(Path.is_file, aside.rglob("*")):
            file.chmod(mode)  # safetensors writes files that only their owner can read
        sync_folder(aside)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush everything in a folder to the disk: a file written later must not survive a crash that this one does not."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Context: this process alone holds the lock for the file `path`; the system releases it when its holder dies. If the disk
    does not support locks, a note says so.

    Raises:
        InputError: other processes keep removing its file.
    """
    file = path.with_name(f".{path.name}.lock")
    for _ in range(TRIES):
        with file.open("a", encoding="utf-8") as handle:
            flock(handle, fcntl.LOCK_EX, path.parent)
            if not is_there(handle, file):  # its holder has released it and removed the file
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return
    raise InputError(f"--output_dir: other processes keep removing {file}; choose another folder")


def remove_stale_locks(held: Path) -> None:
    """Remove lock files, next to one that this process holds, that killed processes have left behind and nobody holds."""
    for file in {*held.parent.glob(".*.lock")} - {held}:
        # an OSError means: held, another user's, already removed, or locks are unsupported
        with suppress(OSError), file.open("r+", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_there(handle, file):
                file.unlink()


def is_there(handle: TextIO, file: Path) -> bool:
    """Whether the name still refers to the opened file."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    except FileNotFoundError:
        return False


def flock(handle: TextIO, how: int, folder: Path) -> None:
    """Lock an open file in `folder`; only a note, and no lock, if the disk does not support locks.

    Raises:
        BlockingIOError: another process has it, and `how` says not to wait.
    """
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say_note(f"{folder} does not support file locks ({error.strerror}); do not start the same run twice at once")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=True) + "\n"
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write each row as a line of JSON, all or none of them, unless the file already holds them."""
    write_if_changed(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_if_changed(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all, unless it already has this content.

    A sweep makes the files that its runs read each time it starts. `finished.py` recognises a finished run as long as nothing has
    touched its files.
    """
    content = content.encode() if isinstance(content, str) else content
    with suppress(OSError):  # there is none yet; any other problem also affects writing
        if path.read_bytes() == content:
            return
    with whole_file(path) as aside:
        aside.write_bytes(content)


def short_hash(value: Any) -> str:
    """Twelve hex digits that change when anything in the (JSON-able) `value` does."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
