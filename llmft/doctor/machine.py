"""What is installed and what is available on the machine, as text."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch

from llmft.models.precision import instructions_for
from llmft.models.reading.softmax import kernel_for
from llmft.runs.record import PACKAGES

GIB = 2**30
PRECISIONS = ("float32", "bfloat16", "float16")


def devices() -> list[torch.device]:
    """The CPU and, if there is one, the accelerator that a process uses."""
    accelerators = [torch.device(torch.accelerator.current_accelerator().type, 0)] if torch.accelerator.is_available() else []
    return [torch.device("cpu"), *accelerators]


def facts() -> Iterator[tuple[str, str]]:
    """Names and values of the machine's properties that matter to a run."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "packages", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    capabilities = torch.cpu.get_capabilities()
    name = f"{capabilities.get('cpu_name') or capabilities['architecture']}, {torch.backends.cpu.get_cpu_capability()}"
    cores = f"{psutil.cpu_count(logical=False) or '?'} cores, threads in use: {torch.get_num_threads()}"
    yield "processor", f"{name}, {cores}"
    yield "half precision on the CPU", "; ".join(map(_half_precision, PRECISIONS[1:]))
    yield "CUDA", f"built for {torch.version.cuda or torch.version.hip or 'CPUs only'}, {torch.cuda.device_count()} GPUs seen"
    for place in range(torch.cuda.device_count()):
        yield f"GPU {place}", _or_error(_gpu, place)
    for device in devices():
        kernels = [f"{precision}: {_or_error(_kernel, device, precision)}" for precision in PRECISIONS]
        yield f"attention on {device.type}", ", ".join(kernels)
    yield "DeepSpeed", _deepspeed()


def _or_error(tell: Callable[..., str], *of: Any) -> str:
    """What is told, or the first line of the error if the device does not even do that."""
    try:
        return tell(*of)
    except RuntimeError as error:
        return str(error).partition("\n")[0]


def _half_precision(precision: str) -> str:
    instructions = instructions_for(getattr(torch, precision))
    return f"{precision}: " + (
        f"{instructions}, fast in evaluation" if instructions else "no instructions, much slower than float32"
    )


def _gpu(place: int) -> str:
    properties = torch.cuda.get_device_properties(place)
    bfloat16 = "with" if properties.major >= 8 else "without"
    capability = f"compute capability {properties.major}.{properties.minor}"
    return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, {capability}, {bfloat16} bfloat16"


def _kernel(device: torch.device, precision: str) -> str:
    """The kernel that packed attention uses for heads of size 64."""
    heads = torch.zeros(1, 1, 8, 64, dtype=getattr(torch, precision), device=device)
    return kernel_for(heads, heads, heads, None, is_causal=True)


def _deepspeed() -> str:
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it looks for a device and warns that there is none
    from deepspeed.git_version_info import installed_ops

    built = ", ".join(name for name, is_built in installed_ops.items() if is_built)
    return f"prebuilt operators: {built or 'none'}; the included configs need none"
