"""The DeepSpeed config that --deepspeed names, and how DeepSpeed starts on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmft.arguments.checks import read_json
from llmft.errors import InputError

CONFIGS = Path(__file__).parents[2] / "deepspeed_configs"


def find_config(name: str) -> str:
    """The file that `--deepspeed name` means: that path, else a config of the project by its name, with `.json` or without. A
    config itself, as JSON, is what it is.

    Raises:
        InputError: there is none.
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
    """The ZeRO stage of a config, as JSON too, or of the file with one; DeepSpeed's own default is 0."""
    settings = read_json("deepspeed", config) if isinstance(config, str) else config
    return settings.get("zero_optimization", {}).get("stage", 0)


def keep_off_the_compiler() -> None:
    """Have ranks on one CPU talk as torch has them talk. DeepSpeed would compile a way of its own at each machine's first start,
    which only its tensor-parallel inference uses: it takes a minute, waits for ever for a start that was killed meanwhile, and
    leaves 70 MB of shared memory a rank behind."""
    import deepspeed.ops
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
