"""The costs of a run by phase: CPU time (user and system), wall time, memory (peak and time-weighted mean), work done.

CPU time is that of this process and its children, ended or alive. Memory is the resident set of this process and its
children (`rss`), sampled by a thread every `interval` seconds; its peak is at least the kernel's own record for this process.
Pages that processes share are in the resident set of each: `pss` divides them up, `uss` omits them. On a GPU, memory is what
torch has allocated and what it has reserved.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import psutil

from llmft.cost.phases import MEMORY, SUMMED, Phase, PhaseKey, Samples, key_of, total
from llmft.cost.processes import (
    children_of_main_thread,
    cpu_seconds,
    largest_process_bytes,
    living_children,
    own_peak_bytes,
    resident_bytes,
    seconds_since_start,
    shared_bytes,
)

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

CHILDREN_EVERY_S = 0.25
"""Minimum seconds between two searches for new child processes, except those that the main thread starts or that end."""
SHARED_EVERY_S = 1.0
"""Minimum seconds between two samples of pss and uss, for which the kernel walks through all pages."""
MOST_OF_TIME = 1 / 500
"""Maximum share of the time that either of them may take; slow ones are done less often."""
OTHER = "other"
"""Kind of the phase for costs between the other phases."""


@dataclass
class _Seldom:
    """A measurement that is taken at most every `every` seconds, and less often if it is slow."""

    look: Callable[[], Any]
    every: float
    next: float = 0.0
    seen: Any = None

    def __call__(self, *, at_once: bool = False) -> Any:
        now = time.monotonic()
        if at_once or now >= self.next:
            self.seen = self.look()
            took = time.monotonic() - now
            self.next = now + max(self.every, took / MOST_OF_TIME)
        return self.seen


@dataclass
class Meter:
    """Measures phases. By default the first one starts with the process itself, including imports.

    Phases may nest: while the inner one runs the outer one is paused, so that costs are counted once. A phase that occurs
    again adds to its entry. Between `open` and `close`, costs between phases count towards the phase `other`.

    Args:
        from_start: whether the first phase starts with the process; False for a second meter of the same process.
        interval: seconds between two memory samples.
    """

    from_start: bool = True
    interval: float = 0.05
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._process = psutil.Process()
        self._children, self._listed = _Seldom(living_children, CHILDREN_EVERY_S), b""
        self._known = {self._process.pid}  # of the last sample
        self._shared = _Seldom(lambda: shared_bytes(self._family()), SHARED_EVERY_S)
        self._memory: dict[PhaseKey, dict[str, Samples]] = {}  # by phase and kind of memory
        self._running: Phase | None = None
        self._at_start = self.from_start  # whether the phase that starts with the process is still to come
        self._waits = False
        self._largest_before = 0  # largest process of an earlier session
        self._largest = 0 if self.from_start else own_peak_bytes()  # peak resident set of this process so far
        self._flops: FlopCounterMode | None = None
        self._uncounted: set[PhaseKey] = set()  # phases some of whose FLOPs were not counted, in this session or an earlier one
        self._mark = (0.0, 0.0, time.monotonic() - seconds_since_start(), 0) if self.from_start else self._now()
        # user, system and clock seconds, and FLOPs counted, when the current phase started
        self._lock, self._stop = threading.Lock(), threading.Event()  # between the process and its sampler
        self._sampler: threading.Thread | None = None
        self.is_open = False

    def open(self) -> None:
        """Start measuring, including the time between phases."""
        self.is_open = True
        self._switch(self._entry(OTHER))
        self._start_sampling()

    def close(self) -> None:
        """Stop measuring."""
        self.is_open = False
        self._stop_sampling()
        self._switch(None)

    @contextmanager
    def measuring(self, *, count_flops: bool = False) -> Iterator[None]:
        """Context: the meter is open; it is closed at the end.

        Args:
            count_flops: whether to count the operators' FLOPs, which slows them down.
        """
        if not self.is_open:
            self.open()
        with ExitStack() as stack:
            stack.callback(self.close)
            if count_flops:
                from llmft.cost.flops import counting

                self._flops = stack.enter_context(counting())
            yield

    @contextmanager
    def phase(self, kind: str, stage: str | None = None, set: str | None = None) -> Iterator[Phase]:
        """Context: the block is measured as a phase; the arguments are as in `Phase`."""
        phase, outer = self._entry(kind, stage, set), self._running
        between = outer is not None and outer.kind == OTHER
        self._switch(phase)
        if outer is None:
            self._start_sampling()
        try:
            yield phase
        finally:
            if outer is None:
                self._stop_sampling()
            self._switch(self._entry(OTHER) if between else outer)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context: the process waits for another one; the wait is not measured: no wall time, no memory."""
        since = time.monotonic()
        with self._lock:
            self._waits = True
        try:
            yield
        finally:
            with self._lock:
                self._waits = False
                self._mark = (*self._mark[:2], self._mark[2] + time.monotonic() - since, self._mark[3])
                for samples in self._memory[self._running.key].values() if self._running is not None else ():
                    samples.last = None

    def add(self, phases: Sequence[dict[str, Any]], largest: int = 0) -> None:
        """Add the phases of an earlier session's `as_dict()` to the same entries; `largest`: its largest process."""
        self._largest_before = max(self._largest_before, largest)
        for earlier in phases:
            phase = self._entry(*key_of(earlier))
            for name in (*SUMMED, "wall_s"):
                setattr(phase, name, getattr(phase, name) + earlier[name])
            self._count(phase, earlier.get("flops_counted"))
            with self._lock:
                for kind, samples in self._memory[phase.key].items():
                    if earlier.get(f"{kind}_peak_bytes") is not None:
                        samples.raise_peak(earlier[f"{kind}_peak_bytes"])
                        samples.area += earlier[f"{kind}_mean_bytes"] * earlier["wall_s"]
                        samples.seconds += earlier["wall_s"]
                self._summarise(phase)

    def as_dict(self) -> dict[str, Any]:
        """This process's phases (the current one with its costs so far), their total, and how memory was sampled."""
        self._switch(self._running)
        phases = [asdict(phase) for phase in self.phases]
        sampling = {"interval_s": self.interval, "children_interval_s": CHILDREN_EVERY_S, "shared_interval_s": SHARED_EVERY_S}
        return {
            "phases": phases,
            "total": total(phases) | {"largest_process_bytes": max(largest_process_bytes(), self._largest_before)},
            "sampling": sampling,
        }

    def _entry(self, *key: str | None) -> Phase:
        """The phase of this kind, stage and set, appended to the list if it is new."""
        phase = Phase(*key)
        if phase.key not in self._memory:
            phase.start = self.phase
            self.phases.append(phase)
            self._memory[phase.key] = {kind: Samples() for kind in MEMORY}
        return next(one for one in self.phases if one.key == phase.key)

    def _family(self) -> list[psutil.Process]:
        listed, before = children_of_main_thread(), self._listed
        self._listed = listed
        return [self._process, *self._children(at_once=listed != before)]

    def _now(self) -> tuple[float, float, float, int]:
        """User, system and clock seconds, and FLOPs counted, so far."""
        counted = 0 if self._flops is None else self._flops.get_total_flops()
        return (*cpu_seconds(self._children()), time.monotonic(), counted)

    def _switch(self, to: Phase | None) -> None:
        """Charge the costs since the last switch to the phase that ran, and start `to`."""
        with self._lock:
            ran = self._running
            if self._at_start and to is not None:
                self._begin(to)
                return
            # too slow between nested phases; a child's first moments may then count towards the next phase
            self._children(at_once=ran is None or to is None)
            now = self._now()
            self._sample()
            if ran is not None:
                self._charge(ran, now)
            cuda = used_cuda()
            if cuda is not None:
                cuda.reset_peak_memory_stats()
            self._running, self._mark = to, now
            if to is not None:
                for samples in self._memory[to.key].values():
                    samples.last = None
                self._sample()

    def _begin(self, first: Phase) -> None:
        """Start the phase that began with the process. It absorbs the phase that `open` has started."""
        ran, self._running = self._running, first
        if ran is not None:
            self._memory[first.key] = self._memory.pop(ran.key)
            self.phases.remove(ran)
        elif self.is_open:  # opened early: until now the process has grown from zero
            self._memory[first.key]["rss"].last = (self._mark[2], 0)
        self._at_start = first.kind == OTHER
        self._sample()

    def _charge(self, ran: Phase, now: tuple[float, float, float, int]) -> None:
        user, system, wall, flops = (end - start for end, start in zip(now, self._mark, strict=True))
        ran.cpu_user_s, ran.cpu_system_s = ran.cpu_user_s + user, ran.cpu_system_s + system
        ran.cpu_total_s = ran.cpu_user_s + ran.cpu_system_s
        ran.wall_s += wall
        self._count(ran, None if self._flops is None else flops)
        memory, cuda, largest = self._memory[ran.key], used_cuda(), own_peak_bytes()
        if largest > self._largest:  # the process was never larger before: its peak is in this phase
            memory["rss"].raise_peak(largest)
            self._largest = largest
        if cuda is not None:
            memory["gpu"].raise_peak(cuda.max_memory_allocated())
            memory["gpu_reserved"].raise_peak(cuda.max_memory_reserved())
        self._summarise(ran)

    def _count(self, phase: Phase, flops: int | None) -> None:
        """Add FLOPs; None if they were not counted, and then those of the whole phase are not known."""
        if flops is None:
            self._uncounted.add(phase.key)
        phase.flops_counted = None if phase.key in self._uncounted else (phase.flops_counted or 0) + flops

    def _summarise(self, phase: Phase) -> None:
        for kind, samples in self._memory[phase.key].items():
            setattr(phase, f"{kind}_peak_bytes", samples.peak)
            setattr(phase, f"{kind}_mean_bytes", samples.mean)

    def _start_sampling(self) -> None:
        self._stop.clear()
        self._sampler = threading.Thread(target=self._keep_sampling, daemon=True)
        self._sampler.start()

    def _stop_sampling(self) -> None:
        self._stop.set()
        self._sampler.join()

    def _keep_sampling(self) -> None:
        while not self._stop.wait(self.interval):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        """Take a memory sample for the current phase, if any.

        Between kernel queries, `pss` and `uss` are scaled with `rss`.
        """
        if self._running is None or self._waits:
            return
        memory, cuda, shared = self._memory[self._running.key], used_cuda(), self._shared()
        family = self._family()
        now, rss = time.monotonic(), resident_bytes(family)
        # a child that is about to exec another program has all of its parent's memory for a moment: new children do not set peaks
        known = [process for process in family if process.pid in self._known]
        memory["rss"].add(now, rss, peak=rss if len(known) == len(family) else resident_bytes(known))
        self._known = {process.pid for process in family}
        if shared is not None:
            memory["pss"].add(now, rss * shared[1] // shared[0])
            memory["uss"].add(now, rss * shared[2] // shared[0])
        if cuda is not None:
            memory["gpu"].add(now, cuda.memory_allocated())
            memory["gpu_reserved"].add(now, cuda.memory_reserved())


@cache
def process_meter() -> Meter:
    """The meter that starts with this process. Entry scripts open it before slow imports."""
    return Meter()


def open_meter() -> Meter:
    """The meter of what this process does next: the one that its entry script has opened if nothing has closed it yet, else a new
    one."""
    begun = process_meter()
    return begun if begun.is_open else Meter(from_start=False)


def used_cuda() -> Any | None:
    """`torch.cuda` if this process has initialised it, else None; never imports torch or touches a device."""
    torch = sys.modules.get("torch")
    if torch is None or torch.__spec__._initializing:  # another thread is importing it
        return None
    return torch.cuda if torch.cuda.is_initialized() else None
