"""One part of the benchmark, in its own process: `python -m benchmarks.part NAME SETTINGS.json RESULT.json`."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from benchmarks import (
    distillation,
    growth,
    in_context,
    memory,
    metering,
    start_up,
    text_generation,
    text_growth,
    text_memory,
    text_teacher,
    text_training,
    text_windows,
    windows,
)
from benchmarks.world import Shape, World

PARTS = {
    "in_context": in_context.measure,
    "windows": windows.measure,
    "distillation": distillation.measure,
    "growth": growth.measure,
    "meter": metering.measure,
    "start_up": start_up.measure,
    "text_teacher": text_teacher.measure,
    "text_training": text_training.measure,
    "text_generation": text_generation.measure,
    "text_growth": text_growth.measure,
    "text_windows": text_windows.measure,
    **{f"memory:{item}": partial(memory.measure, item=item) for item in memory.ITEMS},
    **{f"text_memory:{item}": partial(text_memory.measure, item=item) for item in text_memory.ITEMS},
}
"""The work of each part's process."""


def main(name: str, settings_file: str, result_file: str) -> None:
    """Measure and write the results."""
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    settings = json.loads(Path(settings_file).read_text())
    torch.set_num_threads(settings["threads"])
    disable_progress_bar()
    set_verbosity_error()
    world = World(
        folder=Path(settings["folder"]),
        data_dir=Path(settings["data_dir"]),
        shape=Shape(**settings["shape"]),
        quick=settings["quick"],
        turns=settings["turns"],
    )
    Path(result_file).write_text(json.dumps(PARTS[name](world)))


if __name__ == "__main__":
    main(*sys.argv[1:])
