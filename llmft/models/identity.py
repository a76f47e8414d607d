"""What identifies a model before it is loaded: all that its files hold, or the commit that the hub has it at."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmft.errors import InputError
from llmft.models.load import resolve
from llmft.runs.file_hashes import hash_files
from llmft.runs.model_folder import PEFT_SETTINGS, STUDENT_SETTINGS, base_named_in, read_settings, student_settings

NOT_LOADED = re.compile(r"\..*|.*\.md|(optimizer|scheduler|scaler|training_args)\.(pt|bin)|rng_state.*\.pth|trainer_state\.json")
"""Files and folders in a model's folder that no loader reads: its card, hidden ones, and what a training resumes from."""
LOADED_BELOW = (".py", ".jinja", ".safetensors", ".bin", ".gguf")
"""Files that are read from sub-folders: code, chat templates, and shards that an index names."""
SETS = ("target_modules", "exclude_modules", "feedforward_modules")
"""Lists in an adapter's settings that are sets: peft writes them in any order."""


def fingerprint_model(
    name: str,
    revision: str,
    flag: str = "--model_name_or_path",
    above: tuple[Path, ...] = (),
    *,
    gguf_file: str | None = None,
    cache_dir: str | None = None,
) -> str:
    """What identifies a model before it is loaded: of a folder everything in it, of a hub model its name and commit.

    All files count, whole, but for `NOT_LOADED` and the .gguf files that `gguf_file` does not name; of sub-folders
    `LOADED_BELOW`, unless they are models or runs of their own. An adapter's folder counts with its base, by the base's content
    and not by where it lies.

    Args:
        flag: the flag that names it, for messages.
        above: folders of adapters that it is the base of.
        gguf_file: as in `load_model`.
        cache_dir: where models of the hub are kept; None for the hub's own place.

    Raises:
        InputError: a file cannot be read, or an adapter does not say which model it goes with.
    """
    path = Path(resolve(name))
    if path in above:
        raise InputError(f"{flag} {above[0]}: is an adapter whose base is itself; fix its base_model_name_or_path")
    try:
        if path.is_dir():
            return _fingerprint(path, flag, (*above, path), gguf_file, cache_dir)
        return _fingerprint_of_hub(name, revision, flag, above, gguf_file, cache_dir)
    except InputError as error:
        raise InputError(str(error).replace("--model_name_or_path", flag)) from error
    except OSError as error:
        raise InputError(f"{flag} {name}: {error.filename} cannot be read ({error.strerror}); check its rights") from error


def _fingerprint(path: Path, flag: str, above: tuple[Path, ...], gguf_file: str | None, cache_dir: str | None) -> str:
    base = base_named_in(path)
    own_gguf = path / gguf_file if gguf_file and base is None else None
    files = [file for file in _files(path) if file.suffix != ".gguf" or file == own_gguf]
    content: list[tuple[str, object]] = []
    if base is not None:
        files.remove(path / base.named_in)
        settings = {
            key: sorted(value) if key in SETS and isinstance(value, list) else value
            for key, value in read_settings(path / base.named_in).items()
        }
        settings["base_model_name_or_path"] = fingerprint_model(
            base.name, base.revision, flag, above, gguf_file=gguf_file or base.gguf_file, cache_dir=cache_dir
        )
        content.append((base.named_in, settings))
    content += zip((file.relative_to(path).as_posix() for file in files), hash_files(files), strict=True)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if NOT_LOADED.fullmatch(path.name):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink() and not (path / "config.json").is_file():
            yield from (file for file in _files(path) if file.suffix in LOADED_BELOW)


def file_on_hub(name: str, file: str, revision: str, cache_dir: str | None) -> Path | None:
    """A file of a hub model, looked up as loading will; None where it has none, or neither hub nor cache can be reached.

    Raises:
        OSError, ValueError: there is no model of that name.
    """
    from transformers.utils.hub import cached_file

    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    file_path = cached_file(name, file, revision=revision, cache_dir=cache_dir, **quiet)
    return None if file_path is None else Path(file_path)


def settings_of_student(name: str, revision: str, cache_dir: str | None) -> dict[str, Any]:
    """What a run noted about the student that is the model `name`, a folder or on the hub; nothing where no run did.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(resolve(name))
    if path.is_dir():
        return student_settings(path)
    try:
        file = file_on_hub(name, STUDENT_SETTINGS, revision, cache_dir)
    except (OSError, ValueError):  # no such name: loading says so
        return {}
    return {} if file is None else read_settings(file)


def _fingerprint_of_hub(
    name: str, revision: str, flag: str, above: tuple[Path, ...], gguf_file: str | None, cache_dir: str | None
) -> str:
    """Name and commit, which is looked up as loading will: a branch moves. The revision, where neither hub nor cache knows it.

    An adapter's base is one of two things that can move.
    """
    from transformers.utils.hub import extract_commit_hash

    for file in filter(None, (PEFT_SETTINGS, "config.json", gguf_file, "tokenizer_config.json")):
        try:
            path = file_on_hub(name, file, revision, cache_dir)
        except (OSError, ValueError):  # no such name: loading says so
            break
        if path is None:
            continue
        version = f"{name}@{extract_commit_hash(str(path), None) or revision}"
        base = base_named_in(path.parent) if file == PEFT_SETTINGS else None
        if base is None:
            return version
        above = (*above, Path(name))
        gguf_file = gguf_file or settings_of_student(name, revision, cache_dir).get("gguf_file")
        start = fingerprint_model(base.name, base.revision, flag, above, gguf_file=gguf_file, cache_dir=cache_dir)
        return f"{version} on {start}"
    return f"{name}@{revision}"
