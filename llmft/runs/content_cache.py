"""Arrays kept under what they were computed from: other seeds and sweeps take them up instead of computing them again.

A file is named by the hash of its key, appears whole or not at all, and is checked whenever it is read. A cache never gives
a wrong answer for a damaged file; at worst it gives none.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from llmft.errors import InputError
from llmft.runs.notes import say_note
from llmft.runs.store import whole_file


class ContentCache:
    """A folder of safetensors files, one for each key.

    Any number of processes may read and write it at once: who writes the same key later replaces a file by an equal one.

    Args:
        folder: made if it is not there.
        flag: the command-line flag that named it, for messages.

    Raises:
        InputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path, flag: str = "--teacher_cache_dir") -> None:
        self.folder, self.flag = Path(folder), flag
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise self._unwritable(error) from error

    def path(self, key: Mapping[str, Any]) -> Path:
        """The file that holds, or would hold, the arrays of a JSON-able key."""
        return self.folder / f"{hashlib.sha256(_canonical(key).encode()).hexdigest()}.safetensors"

    def get(self, key: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays put under `key` and their metadata; None where there are none, or (with a warning) their file is damaged.

        The arrays stay in the file: what is looked at is read, and memory that is wanted elsewhere is given back.
        """
        path = self.path(key)
        try:
            arrays, notes = _mapped(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            return self._damaged(path, " ".join(str(error).split()))  # whatever bytes may look like
        if notes.get("key") != _canonical(key):
            return self._damaged(path, "it holds another key")
        if notes.get("sha256") != _checksum(arrays, notes.get("metadata", "")):
            return self._damaged(path, "its checksum is wrong")
        return _mapped(path)[0], json.loads(notes["metadata"])  # anew: of those all has been looked at

    def put(self, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None) -> None:
        """Keep `arrays` under `key`, replacing what was there.

        Args:
            key: JSON-able; everything that decides the arrays' values. It is kept in the file, too.
            arrays: of numpy's own types.
            metadata: JSON-able, for whoever looks into the file (say, when and by which run it was made); not part of the key.

        Raises:
            InputError: the file cannot be written.
        """
        contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
        text = _canonical(metadata or {})
        notes = {"key": _canonical(key), "metadata": text, "sha256": _checksum(contiguous, text)}
        try:
            with whole_file(self.path(key)) as aside:
                aside.write_bytes(save(contiguous, notes))  # `save_file` would first write a file of its own beside it
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error

    def _damaged(self, path: Path, reason: str) -> None:
        say_note(f"{self.flag}: {path} is damaged ({reason}); its content is computed again", "warning")

    def _unwritable(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        return InputError(
            f"{self.flag} {self.folder}: cannot be written to ({reason}); name a folder of your own with room in it"
        )


def _mapped(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A file's arrays, which are not read before they are looked at, and its metadata."""
    with safe_open(path, framework="pt") as file:  # numpy's way would read them
        return {name: file.get_tensor(name).numpy() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)


def _checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
