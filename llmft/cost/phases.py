"""Costs of a phase and how they are combined over phases and over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

SUMMED = ("cpu_user_s", "cpu_system_s", "cpu_total_s", "examples", "tokens", "padding_tokens", "flops")
"""Values that are summed over ranks, in addition to memory."""
MEMORY = ("rss", "pss", "uss", "gpu", "gpu_reserved")
"""Kinds of memory; a phase has `<kind>_peak_bytes` and `<kind>_mean_bytes`, None if a kind cannot be measured."""

PhaseKey = tuple[str, str | None, str | None]
"""Kind, stage and set of a phase."""


def key_of(phase: Mapping[str, Any]) -> PhaseKey:
    """`Phase.key` of a phase in a record."""
    return phase["kind"], phase["stage"], phase["set"]


@dataclass
class Phase:
    """Costs of one phase; `examples`, `tokens`, `padding_tokens` and `flops` are counted by the code that does the work.

    Attributes:
        kind: the kind of work: `load`, `teacher`, `retain` (the answers to --retain_file), `adapt` (adding the trained part; for
            a cartridge, reading the tokens that it starts from), `train`, `rollout`, `evaluate`, `reference` (texts read only to
            judge answers by them), `save`, `record`, `other`; in self-study `write`, `answer`, `answer without the document`;
            `compose`.
        stage, set: for an evaluation or a reference, the stage of the run and the set of rows; else None.
        flops: estimated by a rule.
        flops_counted: FLOPs of the operators that ran; None if not all of them were counted.
    """

    kind: str
    stage: str | None = None
    set: str | None = None
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    cpu_total_s: float = 0.0
    wall_s: float = 0.0
    rss_peak_bytes: int = 0
    rss_mean_bytes: int = 0
    pss_peak_bytes: int | None = None
    pss_mean_bytes: int | None = None
    uss_peak_bytes: int | None = None
    uss_mean_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    gpu_mean_bytes: int | None = None
    gpu_reserved_peak_bytes: int | None = None
    gpu_reserved_mean_bytes: int | None = None
    examples: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    flops: int = 0
    flops_counted: int | None = None

    def __post_init__(self) -> None:
        self.start: Callable[..., AbstractContextManager[Phase]] = lambda *key: nullcontext(Phase(*key))  # a meter has its own

    @property
    def key(self) -> PhaseKey:
        """The phase's identity within its run."""
        return self.kind, self.stage, self.set

    def count(self, *, examples: int = 0, tokens: int = 0, padding_tokens: int = 0, flops: int = 0) -> None:
        """Add work done in this phase."""
        self.examples += examples
        self.tokens += tokens
        self.padding_tokens += padding_tokens
        self.flops += flops

    def beside(self, kind: str) -> AbstractContextManager[Phase]:
        """Context: a phase of another kind for the same stage and set, whose costs are no part of this one's."""
        return self.start(kind, self.stage, self.set)


@dataclass
class Samples:
    """Time-weighted memory samples of one phase, over all intervals in which it ran."""

    peak: int | None = None
    area: float = 0.0
    seconds: float = 0.0
    last: tuple[float, int] | None = None

    def add(self, now: float, value: int, *, peak: int | None = None) -> None:
        """Add a sample at a time in seconds; `peak`: the part of it that counts for the peak, if not all of it."""
        if self.last is not None:
            self.area += (now - self.last[0]) * (value + self.last[1]) / 2
            self.seconds += now - self.last[0]
        self.last = (now, value)
        self.raise_peak(value if peak is None else peak)

    def raise_peak(self, value: int) -> None:
        """Raise the peak to a value that was reached at some time."""
        self.peak = value if self.peak is None else max(self.peak, value)

    @property
    def mean(self) -> int | None:
        """Mean over the time between samples, at most the peak, which ignores a child's first sample; the peak if no time has
        passed; None without a sample."""
        return min(int(self.area / self.seconds), self.peak) if self.seconds else self.peak


def total(phases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All phases together: sums of times and work, the highest peak, means weighted by wall time."""
    out: dict[str, Any] = {name: sum(p[name] for p in phases) for name in (*SUMMED, "wall_s")}
    out["flops_counted"] = _counted(phases)
    for kind in MEMORY:
        measured = [p for p in phases if p[f"{kind}_peak_bytes"] is not None]
        wall = sum(p["wall_s"] for p in measured)
        mean = sum(p[f"{kind}_mean_bytes"] * p["wall_s"] for p in measured)
        out[f"{kind}_peak_bytes"] = max((p[f"{kind}_peak_bytes"] for p in measured), default=None)
        out[f"{kind}_mean_bytes"] = int(mean / wall) if wall else None
    return out


def _counted(phases: Sequence[dict[str, Any]]) -> int | None:
    """The FLOPs counted in phases together; None if not all were counted."""
    counted = [phase["flops_counted"] for phase in phases]
    return None if None in counted else sum(counted)


def combine_ranks(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The costs of several ranks combined: sums of CPU time, memory and tokens, wall time of the slowest.

    Args:
        costs: `Meter.as_dict()` of each rank; all have the same phases, in any order.

    Raises:
        ValueError: a rank has a phase that another one lacks.
    """
    memory = [f"{kind}_{what}_bytes" for kind in MEMORY for what in ("peak", "mean")]
    phases, of_ranks = [], [{key_of(phase): phase for phase in cost["phases"]} for cost in costs]
    for key in dict.fromkeys(key for of_rank in of_ranks for key in of_rank):
        if not all(key in of_rank for of_rank in of_ranks):
            raise ValueError(f"not all ranks have the phase {key}")
        parts = [of_rank[key] for of_rank in of_ranks]
        merged = {**parts[0], "flops_counted": _counted(parts)}
        for name in (*SUMMED, *memory):
            values = [part[name] for part in parts if part[name] is not None]
            merged[name] = sum(values) if values else None
        merged["wall_s"] = max(part["wall_s"] for part in parts)
        phases.append(merged)
    ranks = [cost["total"] for cost in costs]
    largest = {"largest_process_bytes": max(rank["largest_process_bytes"] for rank in ranks)}
    return {"phases": phases, "total": total(phases) | largest, "ranks": ranks, "sampling": costs[0]["sampling"]}
