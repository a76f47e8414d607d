"""Measuring: alternating times, peak memory, the machine's rates from which floors are computed."""

from __future__ import annotations

import gc
import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.world import Shape

BUSY = 0.5
"""Load average above which times of this run are doubtful."""


@dataclass(frozen=True)
class Times:
    """Wall and CPU seconds of something done several times; CPU seconds say more if others use the machine as well."""

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        """Median wall seconds."""
        return statistics.median(self.wall)

    def __add__(self, more: Times) -> Times:
        return Times(self.wall + more.wall, self.cpu + more.cpu)

    def as_dict(self) -> dict[str, list[float]]:
        """For the results file."""
        return {"wall_s": self.wall, "cpu_s": self.cpu}


def alternate(arms: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """Do all arms in turn, A B C A B C ..., so that other work on the machine affects all of them equally."""
    found: dict[str, Times] = {name: Times([], []) for name in arms}
    for _ in range(repeats):
        for name, work in arms.items():
            gc.collect()
            wall, cpu = time.perf_counter(), _cpu_seconds()
            work()
            found[name].wall.append(time.perf_counter() - wall)
            found[name].cpu.append(_cpu_seconds() - cpu)
    return found


def _cpu_seconds() -> float:
    """User and system time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum over turns of the ratio of two times."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def matrix_products(shape: Shape, tokens: int) -> tuple[Callable[[], None], int]:
    """Only the matrix products of one layer for a batch of this many tokens, 24 times; and their FLOPs."""
    import torch

    hidden, wide = shape.hidden, shape.feed_forward
    layers = [torch.nn.Linear(hidden, hidden) for _ in range(4)] + [torch.nn.Linear(hidden, wide), torch.nn.Linear(wide, hidden)]
    inputs = {width: torch.randn(tokens, width) for width in (hidden, wide)}

    @torch.no_grad()
    def work() -> None:
        for _ in range(24):
            for layer in layers:
                layer(inputs[layer.in_features])

    return work, 24 * 2 * tokens * (4 * hidden * hidden + 2 * hidden * wide)


def copy_rate() -> float:
    """Memory bandwidth in bytes per second, reading and writing: the best of five copies of 256 MiB, each read and written
    once."""
    import torch

    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds)


def peak_beyond(work: Callable[[], Any]) -> dict[str, int]:
    """Bytes of resident memory at the peak of `work` beyond what was there at its start, which includes the weights.

    Linux keeps the peak of a process and can reset it, so nothing has to be sampled.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    work()
    return {"before": before, "beyond": _memory("VmHWM") - before}


def _memory(name: str) -> int:
    (kib,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) * 1024


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on: processor, threads, memory, versions, load of the machine. No names of host or user."""
    import psutil

    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_at_start": os.getloadavg()[0],
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "lm_eval", "trl"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
