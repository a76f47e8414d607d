"""What a student's folder says it holds, and which model an adapter goes with. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmft.errors import InputError

PEFT_SETTINGS, PARALLEL_SETTINGS, HEAD_SETTINGS = "adapter_config.json", "parallel_adapter.json", "classification_head.json"
"""Files by which a folder is known to hold an adapter of peft's, parallel adapters, a classification head."""


@dataclass(frozen=True)
class Base:
    """The model that an adapter goes with, and the file that names it."""

    name: str
    revision: str
    named_in: str


def base_named_in(folder: Path) -> Base | None:
    """The base of the adapter in `folder`; None where it holds no adapter.

    Raises:
        InputError: it does not say which.
    """
    for file in (PEFT_SETTINGS, PARALLEL_SETTINGS):
        if not (folder / file).is_file():
            continue
        settings = json.loads((folder / file).read_text())
        if not settings.get("base_model_name_or_path"):
            raise InputError(
                f"--model_name_or_path {folder}: {file} names no base model; write its folder or hub name there, under "
                "base_model_name_or_path"
            )
        return Base(settings["base_model_name_or_path"], settings.get("revision") or "main", file)
    return None
