"""Combines adapters of several students: cartridges are concatenated, LoRA adapters merged, both by peft."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel, compose_cartridge_adapters

from llmft.runs.model_folder import student_settings, write_student_settings


def join_cartridges(students: Sequence[Path], folder: Path) -> None:
    """Write several cartridges as one, in order. Each keeps the positions at which its keys were computed, so they all begin at
    the start of the text.

    Args:
        students: folders of cartridges of one base.
        folder: an empty one.
    """
    compose_cartridge_adapters(students, output_path=folder)
    write_common_settings(students, folder)


def add_adapters(model: PeftModel, students: Sequence[Path]) -> list[str]:
    """Load LoRA adapters in addition to that of a model, which is the first student's.

    Returns:
        Their names in the model, its own first.
    """
    names = [model.active_adapter, *(f"student-{number}" for number in range(1, len(students)))]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        for name, student in zip(names[1:], students[1:], strict=True):
            model.load_adapter(str(student), name)
    return names


def merge_adapters(model: PeftModel, names: Sequence[str], how: str, weight: float, density: float) -> None:
    """Merge LoRA adapters of a model into a new one, named `how`.

    Args:
        how: `cat` for the exact sum of their updates; `linear` for sums of their B and of their A, times the square root of the
            weight; `ties` for means instead, of the entries that Yadav et al. 2023 (arXiv:2306.01708) keep.
        weight: the weight of each adapter.
        density: share of the weights that `ties` keeps.
    """
    more = {"density": density} if how == "ties" else {}
    model.add_weighted_adapter(list(names), [weight] * len(names), how, combination_type=how, **more)


def save_merged(model: PeftModel, how: str, students: Sequence[Path], folder: Path) -> None:
    """Write a merged adapter that can be loaded like a student.

    Args:
        students: folders of those that were merged.
        folder: an empty one.
    """
    model.save_pretrained(str(folder), selected_adapters=[how], save_embedding_layers=False)
    for file in (folder / how).iterdir():
        file.rename(folder / file.name)
    (folder / how).rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty template
    write_common_settings(students, folder)


def write_common_settings(students: Sequence[Path], folder: Path) -> None:
    """Record for several students put together what their runs recorded: answers end with what ends those of any of them."""
    settings = [*map(student_settings, students)]
    stops = dict.fromkeys(stop for one in settings for stop in one.get("stop", ()))
    write_student_settings(settings[0] | ({"stop": [*stops]} if stops else {}), folder)
