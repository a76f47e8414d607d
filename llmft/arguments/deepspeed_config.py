"""The DeepSpeed config given by --deepspeed, and how DeepSpeed starts on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmft.arguments.checks import read_json
from llmft.errors import InputError

CONFIGS = Path(__file__).parents[2] / "deepspeed_configs"


def find_config(name: str) -> str:
    """The file meant by `--deepspeed name`: that path, or else a config of this project by its name, with or without `.json`. A
    config given as JSON is returned as it is.

    Raises:
        InputError: there is no such file.
    """
    if name.startswith("{"):
        return name
    shipped = CONFIGS / f"{name.removesuffix('.json')}.json"
    path = Path(name) if Path(name).is_file() or Path(name).name != name else shipped
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("zero*.json")))
        raise InputError(f"--deepspeed {name}: no such file; give the path of a DeepSpeed config, or one of {known}")
    return str(path)


def zero_stage(config: str | dict[str, Any]) -> int:
    """The ZeRO stage of a config, given as an object, as JSON or as a file; DeepSpeed's own default is 0."""
    settings = read_json("deepspeed", config) if isinstance(config, str) else config
    return settings.get("zero_optimization", {}).get("stage", 0)


def keep_off_the_compiler() -> None:
    """Make ranks on one CPU communicate through torch. DeepSpeed would compile its own communication at the first start on each
    machine, although only its tensor-parallel inference uses it: this takes a minute, waits forever if an earlier compilation was
    killed, and leaks 70 MB of shared memory per rank."""
    import deepspeed.ops
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
