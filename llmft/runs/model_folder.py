"""What a student's folder contains, and which model an adapter belongs to. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmft.errors import InputError, quote

PEFT_SETTINGS, PARALLEL_SETTINGS, HEAD_SETTINGS = "adapter_config.json", "parallel_adapter.json", "classification_head.json"
"""Files whose presence shows that a folder holds a peft adapter, parallel adapters, or a classification head."""
STUDENT_SETTINGS = "student.json"
"""File in a student's folder with facts about its training that no other file has: precision, the base's .gguf file, what ends
answers."""
START = "start"
"""Subfolder of an adapter's folder: the merged model that it was trained on, if that is not stored elsewhere."""


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to, and the file that names it."""

    name: str
    revision: str
    named_in: str
    gguf_file: str | None = None


def adapter_settings(folder: Path) -> Path | None:
    """The file that shows that `folder` holds an adapter; None if it holds none."""
    return next((folder / name for name in (PEFT_SETTINGS, PARALLEL_SETTINGS) if (folder / name).is_file()), None)


def base_named_in(folder: Path) -> Base | None:
    """The base of the adapter in `folder`; None if it holds no adapter.

    Raises:
        InputError: its settings do not name the base.
    """
    file = adapter_settings(folder)
    if file is None:
        return None
    settings = read_settings(file)
    name = settings.get("base_model_name_or_path")
    if not name:
        raise InputError(
            f"--model_name_or_path {folder}: {file.name} names no base model; write its folder or hub name there, under "
            "base_model_name_or_path"
        )
    if not isinstance(name, str) or Path(name).resolve() == folder.resolve():
        raise InputError(
            f"--model_name_or_path {folder}: {file.name} names {quote(name)} as its base; write the base's folder or hub "
            "name there"
        )
    if (folder / START).is_dir():  # moves with the adapter, whatever path its settings name
        return Base(str(folder / START), "main", file.name)
    return Base(name, settings.get("revision") or "main", file.name, student_settings(folder).get("gguf_file"))


def student_settings(folder: Path) -> dict[str, Any]:
    """What a run recorded about the student that it saved in `folder`; empty if no run did.

    Raises:
        InputError: the file is damaged.
    """
    file = folder / STUDENT_SETTINGS
    return read_settings(file) if file.is_file() else {}


def write_student_settings(settings: dict[str, Any], folder: Path) -> None:
    """Record facts about the student that is saved in `folder`."""
    (folder / STUDENT_SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model's folder.

    Raises:
        InputError: the file cannot be read or is not a JSON object.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--model_name_or_path {file.parent}: {file.name} cannot be read as JSON ({reason}); save the model again"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(f"--model_name_or_path {file.parent}: {file.name} is not a JSON object; save the model again")
    return settings
