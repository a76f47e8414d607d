"""Hashes of whole files. Large files are read once: their hash is cached in the user's cache folder, along with their state.

As in git's index, a file that has just been changed is not cached: it could change again without a change of its timestamps.
The cache is only a convenience: if its folder is not writable, files are read again each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.runs.launch import this_process
from llmft.runs.notes import say_note
from llmft.runs.store import lock, whole_file

if TYPE_CHECKING:
    from tqdm import tqdm

SMALL = 1 << 20
"""Files of up to this many bytes are read each time."""
CHUNK = 1 << 25
"""Bytes that one thread hashes at a time; the hashes depend on it."""
BLOCK = 1 << 20
SETTLED_S = 2.0
"""Age of a change after which file systems give a later change a different timestamp."""
NOTED_S = 1.0
"""Reading that takes at least this many seconds is reported in a note."""
VERSION = "file-hashes-1"


def cache_dir() -> Path:
    """Where hashes are cached: `LLMFT_CACHE_DIR`, else `llmft` in the user's cache folder."""
    named = os.environ.get("LLMFT_CACHE_DIR")
    above = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return (Path(named) if named else Path(above) / "llmft") / VERSION


def hash_files(files: Sequence[Path]) -> list[str]:
    """The hash (64 hex digits) of the whole content of each file.

    If this takes longer than a moment, rank 0 shows a progress bar on a terminal, and a note with size and seconds.

    Raises:
        OSError: a file cannot be read.
    """
    from tqdm import tqdm

    states = [file.stat() for file in files]
    entries = [None if state.st_size <= SMALL else _entry(file) for file, state in zip(files, states, strict=True)]
    unread = sum(
        state.st_size for state, entry in zip(states, entries, strict=True) if entry is not None and _kept(entry, state) is None
    )
    started, hashes = time.monotonic(), []
    shown = this_process().is_first and unread and sys.stderr.isatty()
    with tqdm(
        total=unread, desc="hashing model files", unit="B", unit_scale=True, delay=NOTED_S, leave=False, disable=not shown
    ) as bar:
        for file, entry in zip(files, entries, strict=True):
            hashes.append(_read(file, bar) if entry is None else _hash_large(file, entry, bar))
    seconds = time.monotonic() - started
    if unread and seconds >= NOTED_S:
        again = f"; {cache_dir()} is not writable, so the next run reads them again"
        kept = os.access(cache_dir(), os.W_OK)
        say_note(f"hashed {unread / 1e6:,.0f} MB of model files in {seconds:.1f} s to name the run{'' if kept else again}")
    return hashes


def _hash_large(file: Path, entry: Path, bar: tqdm) -> str:
    kept = _kept(entry, file.stat())
    if kept is not None:
        return kept
    with _alone(entry):  # the ranks of one launch get here at the same time: one reads, the others wait
        before = file.stat()
        kept = _kept(entry, before)
        if kept is not None:
            return kept
        started = time.time()
        digest = _read(file, bar)
        changed = max(before.st_mtime, before.st_ctime)
        if _state(file.stat()) == _state(before) and changed < started - SETTLED_S:
            with suppress(OSError), whole_file(entry) as aside:
                aside.write_text(json.dumps({"file": os.path.realpath(file), "state": _state(before), "hash": digest}))
        return digest


def _read(file: Path, bar: tqdm) -> str:
    """The hash of the hashes of a file's chunks, which threads compute."""
    handle = os.open(file, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size

        def hash_chunk(start: int) -> bytes:
            digest = hashlib.sha256()
            for place in range(start, min(start + CHUNK, size), BLOCK):
                digest.update(os.pread(handle, min(BLOCK, start + CHUNK - place), place))
            return digest.digest()

        whole = hashlib.sha256(str(size).encode())
        starts = range(0, size, CHUNK)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(min(cores, 8)) as pool:
            for start, part in zip(starts, pool.map(hash_chunk, starts), strict=True):
                whole.update(part)
                bar.update(min(CHUNK, size - start))
        return whole.hexdigest()
    finally:
        os.close(handle)


def _entry(file: Path) -> Path:
    """Where the hash of a file is cached; one place for each path, so that a changed file leaves no stale entry."""
    return cache_dir() / f"{hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:40]}.json"


def _kept(entry: Path, state: os.stat_result) -> str | None:
    try:
        kept = json.loads(entry.read_text(encoding="utf-8"))
        return str(kept["hash"]) if kept["state"] == _state(state) else None
    except (OSError, ValueError, KeyError, TypeError):  # no entry, or not one of ours
        return None


def _state(state: os.stat_result) -> list[int]:
    """Values that change with a file's content: the change time of an inode (ctime) cannot be set by users."""
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Context: no other process on this machine reads the same file. Without support for locks, all of them do."""
    with ExitStack() as stack:
        with suppress(OSError, InputError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(entry))
        yield
