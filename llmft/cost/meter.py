"""What a run costs, phase by phase: CPU time (user and system), wall time, memory (peak and time-weighted mean), work done.

CPU time is that of this process and its children, ended or alive. Memory is the resident set of this process and its
children, sampled by a thread every `interval` seconds; on a GPU, torch's allocated memory as well.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

SUMMED = ("cpu_user_s", "cpu_system_s", "cpu_total_s", "examples", "tokens", "padding_tokens", "flops")
"""What several ranks add up to, beside their memory."""
CHILDREN_EVERY_S = 1.0
"""Seconds between two looks for new child processes, which cost a scan of all processes of the machine."""


@dataclass
class Phase:
    """Costs of one phase; `examples`, `tokens`, `padding_tokens` and `flops` are counted by whoever does the work."""

    name: str
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    cpu_total_s: float = 0.0
    wall_s: float = 0.0
    rss_peak_bytes: int = 0
    rss_mean_bytes: int = 0
    gpu_peak_bytes: int | None = None
    gpu_mean_bytes: int | None = None
    examples: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    flops: int = 0

    def count(self, *, examples: int = 0, tokens: int = 0, padding_tokens: int = 0, flops: int = 0) -> None:
        """Add work done in this phase."""
        self.examples += examples
        self.tokens += tokens
        self.padding_tokens += padding_tokens
        self.flops += flops


@dataclass
class _Samples:
    """Time-weighted memory samples."""

    peak: int = 0
    area: float = 0.0
    seconds: float = 0.0
    last: tuple[float, int] | None = None

    def add(self, now: float, value: int) -> None:
        if self.last is not None:
            self.area += (now - self.last[0]) * (value + self.last[1]) / 2
            self.seconds += now - self.last[0]
        self.last = (now, value)
        self.peak = max(self.peak, value)

    @property
    def mean(self) -> int:
        return int(self.area / self.seconds) if self.seconds else self.peak


@dataclass
class Meter:
    """Measures phases one after the other. The first one is taken to begin with the process itself, imports included.

    Args:
        from_start: whether it is; not for a second meter of the same process.
        interval: seconds between two memory samples.
    """

    from_start: bool = True
    interval: float = 0.05
    phases: list[Phase] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Measure what happens within."""
        process = psutil.Process()
        first = self.from_start and not self.phases
        start_cpu = (0.0, 0.0) if first else cpu_seconds(process)
        start_wall = process.create_time() if first else time.time()
        phase = Phase(name)
        memory, gpu = _Samples(), _Samples()
        cuda = used_cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        stop = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(process, memory, gpu, stop), daemon=True)
        sampler.start()
        try:
            yield phase
        finally:
            stop.set()
            sampler.join()
            user, system = cpu_seconds(process)
            phase.cpu_user_s, phase.cpu_system_s = user - start_cpu[0], system - start_cpu[1]
            phase.cpu_total_s = phase.cpu_user_s + phase.cpu_system_s
            phase.wall_s = time.time() - start_wall
            phase.rss_peak_bytes, phase.rss_mean_bytes = memory.peak, memory.mean
            if gpu.last is not None:
                phase.gpu_peak_bytes, phase.gpu_mean_bytes = used_cuda().max_memory_allocated(), gpu.mean
            self.phases.append(phase)

    def _sample(self, process: psutil.Process, memory: _Samples, gpu: _Samples, stop: threading.Event) -> None:
        done = False
        family, looked = [process], -CHILDREN_EVERY_S
        while True:
            now = time.monotonic()
            if now - looked >= CHILDREN_EVERY_S:
                family, looked = [process, *process.children(recursive=True)], now
            memory.add(now, resident_bytes(family))
            cuda = used_cuda()
            if cuda is not None:
                gpu.add(now, cuda.memory_allocated())
            if done:
                return
            done = stop.wait(self.interval)

    def as_dict(self) -> dict[str, Any]:
        """This process's phases and their total."""
        phases = [asdict(phase) for phase in self.phases]
        return {"phases": phases, "total": total(phases)}


def cpu_seconds(process: psutil.Process) -> tuple[float, float]:
    """User and system seconds of a process, its ended children, and its living ones."""
    own = os.times()
    user, system = own.user + own.children_user, own.system + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # ended in between; its time has gone over to the parent
            continue
        user, system = user + times.user, system + times.system
    return user, system


def resident_bytes(processes: Sequence[psutil.Process]) -> int:
    """Resident set of some processes together, in bytes; those that have ended hold none."""
    size = 0
    for process in processes:
        try:
            size += process.memory_info().rss
        except psutil.Error:
            continue
    return size


def used_cuda() -> Any | None:
    """`torch.cuda` if this process has put it to use, else None; never imports torch or touches a device."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def total(phases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All phases together: times and work added up, the highest peak, means weighted by wall time."""
    names = ("rss", "gpu")
    out: dict[str, Any] = {name: sum(p[name] for p in phases) for name in (*SUMMED, "wall_s")}
    for name in names:
        measured = [p for p in phases if p[f"{name}_peak_bytes"] is not None]
        wall = sum(p["wall_s"] for p in measured)
        mean = sum(p[f"{name}_mean_bytes"] * p["wall_s"] for p in measured)
        out[f"{name}_peak_bytes"] = max((p[f"{name}_peak_bytes"] for p in measured), default=None)
        out[f"{name}_mean_bytes"] = int(mean / wall) if wall else None
    return out


def combine_ranks(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The costs of several ranks as one: CPU time, memory and tokens added up, wall time of the slowest.

    Args:
        costs: `Meter.as_dict()` of each rank; all went through the same phases.
    """
    phases = []
    for parts in zip(*(cost["phases"] for cost in costs), strict=True):
        merged = dict(parts[0])
        for name in SUMMED:
            merged[name] = sum(part[name] for part in parts)
        merged["wall_s"] = max(part["wall_s"] for part in parts)
        for name in ("rss_peak_bytes", "rss_mean_bytes", "gpu_peak_bytes", "gpu_mean_bytes"):
            values = [part[name] for part in parts if part[name] is not None]
            merged[name] = sum(values) if values else None
        phases.append(merged)
    return {"phases": phases, "total": total(phases), "ranks": [cost["total"] for cost in costs]}
