"""Finds run records under a folder, and reads their files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llmft.report.records.versions import cost_of, metrics_of
from llmft.runs.names import DONE
from llmft.runs.run_lock import at_work

FILES = ("config", "metrics", "cost")
OF_RUNS_AND_MODELS = ("draws", "architectures", "model_type")
"""A config.json with one of these keys is a run's or a model's: there are no other runs inside."""


class Unreadable(Exception):
    """A malformed record; the message names the file and the reason."""


UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""Errors caused by malformed entries of a record."""


def unusable(error: Exception) -> str:
    """The reason why a record that caused one of `UNUSABLE` cannot be used."""
    return f"its record cannot be understood ({type(error).__name__}: {error})"


def find_runs(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Folders that hold a run's record, or a part of one; the inside of a run (models, checkpoints) is not searched.

    A folder that several links point to counts once, under its own path if that is under `folder`.

    Returns:
        The folders, sorted; and those that could not be searched, with the reason.
    """
    runs: list[Path] = []
    closed: list[tuple[Path, str]] = []
    seen: set[tuple[int, int]] = set()

    def cannot(error: OSError) -> None:
        closed.append((Path(error.filename), f"cannot be searched ({error.strerror or error})"))

    starts, links = [folder], []
    while starts:
        for name, folders, files in os.walk(starts.pop(), onerror=cannot):
            try:
                path, status = Path(name), os.stat(name)
            except OSError as error:  # a sweep may have removed it since it was listed
                cannot(error)
                folders.clear()
                continue
            folders[:] = [one for one in folders if not one.startswith(".")]
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            if DONE in files or any(f"{one}.json" in files for one in FILES):
                runs.append(path)
            if DONE in files or ("config.json" in files and _ends_the_search(path)):
                folders.clear()
            links += [path / one for one in folders if os.path.islink(path / one)]
        if not starts:  # links last, so that a run is found at its own place
            starts, links = sorted(links, reverse=True), []
    return sorted(runs), closed


def _ends_the_search(folder: Path) -> bool:
    try:
        config = _read(folder / "config.json")
    except Unreadable:
        return False
    return any(name in config for name in OF_RUNS_AND_MODELS)


def path_text(path: Path) -> str:
    r"""A path as text; bytes that are not UTF-8 become `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_record(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """`config.json`, `metrics.json` and `cost.json` of a finished run, in the current format; None if the folder is a model's,
    not a run's.

    Raises:
        Unreadable: the run is not finished, or a file is missing, broken or something else.
    """
    config = _read(path / "config.json")
    if "draws" not in config:
        if (path / DONE).is_file():
            raise Unreadable("config.json has no draws")
        return None
    if not (path / DONE).is_file():
        holder = at_work(path)
        raise Unreadable(
            f"unfinished: being done by {holder}" if holder else "unfinished: there is no DONE; the same command resumes it"
        )
    try:
        return config, metrics_of(_read(path / "metrics.json")), cost_of(_read(path / "cost.json"))
    except UNUSABLE as error:
        raise Unreadable(unusable(error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        written = path.read_bytes()
        value = json.loads(written)
    except FileNotFoundError:
        raise Unreadable(f"{path.name} is missing") from None
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Unreadable(f"{path.name} is broken ({error})") from None
    if not isinstance(value, dict):
        raise Unreadable(f"{path.name} is broken (it is not an object)")
    return _as_utf_8(value) if rb"\ud" in written else value


def _as_utf_8(value: Any) -> Any:
    r"""A value of JSON whose texts can be written to a file: halves of surrogate pairs become `\udcff`."""
    if isinstance(value, dict):
        return {_as_utf_8(key): _as_utf_8(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_utf_8(one) for one in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
