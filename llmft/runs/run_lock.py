"""Only one process at a time executes a run; another with the same command reports which one, and waits for it to end."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from llmft.errors import InputError
from llmft.runs.launch import this_process
from llmft.runs.store import TRIES, flock, is_there, remove_stale_locks


def lock_file(path: Path) -> Path:
    """The file that whoever executes the run in a folder has locked."""
    return path.with_name(f".{path.name}.lock")


def at_work(path: Path) -> str | None:
    """Who executes the run in a folder right now, as text for the user; None for nobody."""
    file = lock_file(path)
    try:
        with file.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder_in(file)
    except OSError:  # there is no such file, or the disk does not support locks
        pass
    return None


def _holder_in(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written, or has disappeared
        return "another process"


class RunLock:
    """The right to execute the run in the folder `path`, shared by all ranks of a launch and held by rank 0.

    It is a lock of the operating system on a file next to the folder, which is released when its holder ends, in whatever way.
    The file is removed with the lock; one left behind by a killed process locks nothing. If the disk does not support locks, a
    note says so.
    """

    def __init__(self, path: Path) -> None:
        if not this_process().is_first:
            raise RuntimeError("only rank 0 may take a run's lock: the ranks of one launch would wait for each other")
        self.file = lock_file(path)
        self._handle: TextIO | None = None
        self._made: dict[Path, None] = {}

    def take(self) -> bool:
        """Try to take it without waiting; False if another process has it.

        Raises:
            InputError: the file, or its folder, cannot be created.
            OSError: the same, for a reason that lies with the disk.
        """
        reason: OSError | None = None
        for _ in range(TRIES):
            self._made |= {folder: None for folder in self.file.parents if not folder.exists()}
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                handle = self.file.open("a+", encoding="utf-8")
            except (FileNotFoundError, FileExistsError) as error:  # another process has just removed a folder: try again
                file = error.filename
                if isinstance(error, FileExistsError) and os.path.lexists(file) and not os.path.isdir(file):
                    raise
                reason = error
                continue
            if self._hold(handle):
                remove_stale_locks(self.file)
                return True
            if is_there(handle, self.file):
                handle.close()
                return False
            handle.close()  # its holder has released it in the meantime
        self._remove_folders()
        why = reason.strerror if reason else "other processes keep removing it"
        raise InputError(f"--output_dir: {self.file.parent} cannot be created ({why}); choose another folder") from reason

    def _hold(self, handle: TextIO) -> bool:
        try:
            flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, self.file.parent)
        except BlockingIOError:
            return False
        if not is_there(handle, self.file):
            return False
        handle.truncate(0)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        handle.write(json.dumps(holder) + "\n")
        handle.flush()
        self._handle = handle
        return True

    @property
    def holder(self) -> str:
        """Who has it, as text for the user."""
        return _holder_in(self.file)

    def release(self) -> None:
        """Release it, and leave no trace if the run has left none."""
        if self._handle is None:
            return
        self.file.unlink(missing_ok=True)
        self._handle.close()
        self._handle = None
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in self._made:
            with suppress(OSError):  # it is no longer empty, or another process has removed it
                folder.rmdir()
