"""The DeepSpeed config that --deepspeed names, and what DeepSpeed needs to start without a launcher."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from llmft.errors import InputError

CONFIGS = Path(__file__).parents[1] / "deepspeed_configs"


def find_config(name: str) -> str:
    """The file that `--deepspeed name` means: that path, else a config of the project by its name, with `.json` or without.

    Raises:
        InputError: there is none, or it is not one JSON object.
    """
    own = CONFIGS / f"{name.removesuffix('.json')}.json"
    path = Path(name) if Path(name).is_file() or Path(name).name != name else own
    known = ", ".join(sorted(file.stem for file in CONFIGS.glob("zero*.json")))
    if not path.is_file():
        raise InputError(f"--deepspeed {name}: no such file; give the path of a DeepSpeed config, or one of {known}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--deepspeed {name}: is no JSON ({error}); mend it, or give one of {known}") from error
    if not isinstance(config, dict):
        raise InputError(f"--deepspeed {name}: holds no JSON object; give a DeepSpeed config, or one of {known}")
    return str(path)


def start_alone() -> None:
    """On a plain start, say so in the variables that a launcher would set: DeepSpeed looks for MPI otherwise."""
    if "RANK" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
