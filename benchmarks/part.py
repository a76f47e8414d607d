"""One part of the benchmark, in a process of its own: `python -m benchmarks.part NAME SETTINGS.json RESULT.json`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from benchmarks.world import Shape, World


def main(name: str, settings_file: str, result_file: str) -> None:
    """Measure and write what was found."""
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
    )
    module, _, item = name.partition(":")
    found = importlib.import_module(f"benchmarks.{module}").measure(world, *([item] if item else []))
    Path(result_file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
