"""What a student's folder says it holds, and which model an adapter goes with. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmft.errors import InputError, quote

PEFT_SETTINGS, PARALLEL_SETTINGS, HEAD_SETTINGS = "adapter_config.json", "parallel_adapter.json", "classification_head.json"
"""Files by which a folder is known to hold an adapter of peft's, parallel adapters, a classification head."""
STUDENT_SETTINGS = "student.json"
"""File of a student's folder with what its training knew and other files do not say: precision, the base's .gguf file."""
START = "start"
"""Folder within an adapter's: the merged model that it was trained on, where that is no model that is kept elsewhere."""


@dataclass(frozen=True)
class Base:
    """The model that an adapter goes with, and the file that names it."""

    name: str
    revision: str
    named_in: str
    gguf_file: str | None = None


def adapter_settings(folder: Path) -> Path | None:
    """The file by which `folder` is known to hold an adapter; None where it holds none."""
    return next((folder / name for name in (PEFT_SETTINGS, PARALLEL_SETTINGS) if (folder / name).is_file()), None)


def base_named_in(folder: Path) -> Base | None:
    """The base of the adapter in `folder`; None where it holds no adapter.

    Raises:
        InputError: it does not say which.
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
            f"--model_name_or_path {folder}: {file.name} names as base {quote(name)}; write the base's folder or hub name there"
        )
    if (folder / START).is_dir():  # moves with the adapter, whatever path its settings name
        return Base(str(folder / START), "main", file.name)
    return Base(name, settings.get("revision") or "main", file.name, student_settings(folder).get("gguf_file"))


def student_settings(folder: Path) -> dict[str, Any]:
    """What a run noted about the student it saved in `folder`; nothing where no run did.

    Raises:
        InputError: the file is damaged.
    """
    file = folder / STUDENT_SETTINGS
    return read_settings(file) if file.is_file() else {}


def read_settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model's folder.

    Raises:
        InputError: there is none.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--model_name_or_path {file.parent}: {file.name} cannot be read as JSON ({reason}); save the model anew"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(f"--model_name_or_path {file.parent}: {file.name} holds no JSON object; save the model anew")
    return settings
