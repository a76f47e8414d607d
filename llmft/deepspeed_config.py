"""The DeepSpeed config that --deepspeed names, and what DeepSpeed needs to start without a launcher."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from llmft.errors import InputError

CONFIGS = Path(__file__).parents[1] / "deepspeed_configs"


def find_config(name: str) -> str:
    """The file that `--deepspeed name` means: that path, else a config of the project by its name, with `.json` or without. A
    config itself, as JSON, is what it is.

    Raises:
        InputError: there is none.
    """
    if name.startswith("{"):
        return name
    own = CONFIGS / f"{name.removesuffix('.json')}.json"
    path = Path(name) if Path(name).is_file() or Path(name).name != name else own
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("zero*.json")))
        raise InputError(f"--deepspeed {name}: no such file; give the path of a DeepSpeed config, or one of {known}")
    return str(path)


def zero_stage(config: str | dict[str, Any]) -> int:
    """The ZeRO stage of a config, as JSON too, or of the file with one; DeepSpeed's own default is 0."""
    if isinstance(config, str):
        config = json.loads(config if config.startswith("{") else Path(config).read_text(encoding="utf-8"))
    return config.get("zero_optimization", {}).get("stage", 0)


def start_alone() -> None:
    """On a plain start, say so in the variables that a launcher would set: DeepSpeed looks for MPI otherwise."""
    if "RANK" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
