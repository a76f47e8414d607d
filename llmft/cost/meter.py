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
    """Time-weighted memory samples of one phase, over all stretches in which it ran."""

    peak: int | None = None
    area: float = 0.0
    seconds: float = 0.0
    last: tuple[float, int] | None = None

    def add(self, now: float, value: int) -> None:
        if self.last is not None:
            self.area += (now - self.last[0]) * (value + self.last[1]) / 2
            self.seconds += now - self.last[0]
        self.last = (now, value)
        self.raise_peak(value)

    def raise_peak(self, value: int) -> None:
        self.peak = value if self.peak is None else max(self.peak, value)

    @property
    def mean(self) -> int | None:
        return int(self.area / self.seconds) if self.seconds else self.peak


@dataclass
class Meter:
    """Measures phases. The first one is taken to begin with the process itself, imports included.

    Phases may nest: while the inner one runs the outer one stands still, so that what is spent is counted once. A name that
    comes again adds to its entry.

    Args:
        from_start: whether it is; not for a second meter of the same process.
        idle_s: seconds that the process has waited for another one before, which are no cost of the run.
        interval: seconds between two memory samples.
    """

    from_start: bool = True
    idle_s: float = 0.0
    interval: float = 0.05
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._process = psutil.Process()
        self._family, self._looked = [self._process], -CHILDREN_EVERY_S
        self._memory: dict[str, tuple[_Samples, _Samples]] = {}  # by phase: resident set, and what is allocated on the GPU
        self._running: Phase | None = None
        self._mark = (0.0, 0.0, self._process.create_time() + self.idle_s)
        # user, system and clock seconds when the running phase was let run
        self._lock = threading.Lock()  # between the process and its sampler

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Measure what happens within."""
        from_the_start = self.from_start and not self.phases
        phase, outer = self._entry(name), self._running
        stop = threading.Event()
        sampler = threading.Thread(target=self._keep_sampling, args=(stop,), daemon=True)
        self._switch(phase, self._mark if from_the_start else None)
        if outer is None:
            sampler.start()
        try:
            yield phase
        finally:
            if outer is None:
                stop.set()
                sampler.join()
            self._switch(outer)

    def add(self, phases: Sequence[dict[str, Any]]) -> None:
        """Add the phases of an earlier session's `as_dict()` to the entries of the same names."""
        for earlier in phases:
            phase = self._entry(earlier["name"])
            for name in (*SUMMED, "wall_s"):
                setattr(phase, name, getattr(phase, name) + earlier[name])
            with self._lock:
                for samples, kind in zip(self._memory[phase.name], ("rss", "gpu"), strict=True):
                    if earlier[f"{kind}_peak_bytes"] is not None:
                        samples.raise_peak(earlier[f"{kind}_peak_bytes"])
                        samples.area += earlier[f"{kind}_mean_bytes"] * earlier["wall_s"]
                        samples.seconds += earlier["wall_s"]
                self._summarise(phase)

    def as_dict(self) -> dict[str, Any]:
        """This process's phases, one that runs with its costs so far, and their total."""
        self._switch(self._running)
        phases = [asdict(phase) for phase in self.phases]
        return {"phases": phases, "total": total(phases)}

    def _entry(self, name: str) -> Phase:
        """The phase of this name, made at the end of the list if there is none."""
        if name not in self._memory:
            self.phases.append(Phase(name))
            self._memory[name] = (_Samples(), _Samples())
        return next(phase for phase in self.phases if phase.name == name)

    def _switch(self, to: Phase | None, mark: tuple[float, float, float] | None = None) -> None:
        """Give what was spent since the last switch to the phase that ran, and let `to` run (from `mark`, if given)."""
        ran, cuda = self._running, used_cuda()
        with self._lock:
            # between nested phases a look costs too much; a child's first second may then count for the next phase
            self._look_for_children(0.0 if ran is None or to is None else CHILDREN_EVERY_S)
            now = (*cpu_seconds(self._family[1:]), time.time())
            self._sample()
            if ran is not None:
                user, system, wall = (end - start for end, start in zip(now, self._mark, strict=True))
                ran.cpu_user_s, ran.cpu_system_s = ran.cpu_user_s + user, ran.cpu_system_s + system
                ran.cpu_total_s = ran.cpu_user_s + ran.cpu_system_s
                ran.wall_s += wall
                if cuda is not None:
                    self._memory[ran.name][1].raise_peak(cuda.max_memory_allocated())
                self._summarise(ran)
            if cuda is not None:
                cuda.reset_peak_memory_stats()
            self._running, self._mark = to, mark or now
            if to is not None:
                for samples in self._memory[to.name]:
                    samples.last = None
                self._sample()

    def _summarise(self, phase: Phase) -> None:
        rss, gpu = self._memory[phase.name]
        phase.rss_peak_bytes, phase.rss_mean_bytes = rss.peak, rss.mean
        phase.gpu_peak_bytes, phase.gpu_mean_bytes = gpu.peak, gpu.mean

    def _keep_sampling(self, stop: threading.Event) -> None:
        while not stop.wait(self.interval):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        """One memory sample for the phase that runs, if any."""
        if self._running is None:
            return
        self._look_for_children(CHILDREN_EVERY_S)
        now, cuda = time.monotonic(), used_cuda()
        rss, gpu = self._memory[self._running.name]
        rss.add(now, resident_bytes(self._family))
        if cuda is not None:
            gpu.add(now, cuda.memory_allocated())

    def _look_for_children(self, every: float) -> None:
        now = time.monotonic()
        if now - self._looked >= every:
            self._family, self._looked = [self._process, *self._process.children(recursive=True)], now


def cpu_seconds(children: Sequence[psutil.Process]) -> tuple[float, float]:
    """User and system seconds of this process, its ended children, and these living ones."""
    own = os.times()
    user, system = own.user + own.children_user, own.system + own.children_system
    for child in children:
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
