"""Files that appear whole or not at all, and the short names of settings."""

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
"""Errors of writing a file that are the user's to fix: room, rights, names, the disk itself."""
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Errors of a network disk that takes no locks."""
DISK_TEXTS = (*(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)), "PytorchStreamWriter failed")
"""The same from libraries that write by themselves and say why in words alone (safetensors), or not at all (torch)."""
ASIDE = ".llmft-aside"
"""What names of files end in that are being written."""
TRIES = 1000
"""How often making a folder, or taking a lock, is tried again when other processes remove it in the meantime."""
WEEK = 7 * 24 * 60 * 60
"""Seconds after which a file that another machine has left aside counts as abandoned."""


@contextmanager
def writing(output_dir: str) -> Iterator[None]:
    """Context: files are written below `output_dir`.

    Raises:
        InputError: the system would not let that be; files that were whole before still are.
    """
    try:
        yield
    except Exception as error:  # each library has its own for this
        text = one_line(error)
        of_system = isinstance(error, OSError) and error.errno in DISK
        in_words = isinstance(error, OSError | RuntimeError | SafetensorError) and any(words in text for words in DISK_TEXTS)
        if not (of_system or in_words):
            raise
        reason, where = (error.strerror or text, error.filename) if isinstance(error, OSError) else (text, None)
        place = f" at {where}" if where else ""
        raise InputError(
            f"--output_dir {output_dir}: cannot be written to ({reason}{place}); make room or choose another folder, "
            "then the same command goes on from the last checkpoint"
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; when the block ends well, what was written is synced and takes the name `path`.

    Until then it has no name, where the system can do that, so that nothing is left of it whenever the process is killed. There
    is no way to put a nameless file in place of another: if `path` is there, the new one has a name beside it for an instant.
    Elsewhere it has one all along. What killed processes have left aside in the folder goes away first.
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
                    error.filename = str(path)  # a name that says something to people
                raise
            os.fsync(handle)
            _give_name(handle, folder, path)
        os.fsync(folder)


@contextmanager
def _nameless(folder: int) -> Iterator[int | None]:
    """A new file without a name in an open folder; None where the system has no such files."""
    try:
        handle = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o666, dir_fd=folder) if os.path.exists("/proc/self/fd") else None
    except (AttributeError, OSError):  # another system or disk; what else is wrong, a file with a name meets too
        handle = None
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _give_name(handle: int, folder: int, path: Path) -> None:
    """Give a nameless file in an open folder the name `path`."""
    nameless = f"/proc/self/fd/{handle}"
    link = partial(os.link, nameless, dst_dir_fd=folder)  # with a folder it is linkat, which follows the link that this is
    try:
        link(path.name)
        return
    except FileExistsError:
        can_link = True
    except OSError:  # a disk that gives no names to such files
        can_link = False
    with _named_beside(path) as aside:
        if can_link:
            link(aside.name)
        else:
            shutil.copyfile(nameless, aside)
            sync(aside)


@contextmanager
def _named_beside(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file that takes its name when the block ends well, and goes away otherwise."""
    start = path.name[:40]  # any name that a system takes leaves room for the rest
    aside = path.with_name(f".{start}.{secrets.token_hex(4)}.{_machine()}{ASIDE}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _writing_in(folder: Path) -> Iterator[int]:
    """Context: the folder is open, and others know that a file is being written aside in it. Where nobody else is at it, what was
    left goes first.

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
        yield handle
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
def whole_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yields an empty folder beside `path`; when the block ends well it is synced and takes the name `path`.

    Args:
        replace: remove an older folder of that name. If not, one with files in it stays, and there is an OSError.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.mkdir()
    mode = aside.stat().st_mode & 0o666
    try:
        yield aside
        for file in filter(Path.is_file, aside.rglob("*")):
            file.chmod(mode)  # safetensors writes files that their owner alone can read
        sync_folder(aside)
        if replace:
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
    locks, a note says so.

    Raises:
        InputError: its file does not stay.
    """
    file = path.with_name(f".{path.name}.lock")
    for _ in range(TRIES):
        with file.open("a", encoding="utf-8") as handle:
            flock(handle, fcntl.LOCK_EX, path.parent)
            if not is_there(handle, file):  # its holder has let go of it, and of the file
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return
    raise InputError(f"--output_dir: {file} does not stay (other processes remove it all the time); choose another folder")


def remove_stale_locks(held: Path) -> None:
    """Remove files of locks that killed processes have left beside one that this process holds: those that nobody holds."""
    for file in {*held.parent.glob(".*.lock")} - {held}:
        with suppress(OSError), file.open("r+", encoding="utf-8") as handle:  # held, another user's, gone, or there are no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_there(handle, file):
                file.unlink()


def is_there(handle: TextIO, file: Path) -> bool:
    """Whether the name still means the file that was opened."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    except FileNotFoundError:
        return False


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
        say_note(f"{folder} takes no locks ({error.strerror}); start no run twice at a time")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=True) + "\n"
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write each row as a line of JSON, all or none of them."""
    with whole_file(path) as aside:
        aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def short_hash(value: Any) -> str:
    """Twelve hex digits that change when anything in the (JSON-able) `value` does."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
