"""Rows of the table: the measurement, the floor of that work, and the ratio of the two."""

from __future__ import annotations

from typing import Any

from benchmarks.floors import Floor
from benchmarks.measure import Times, copy_rate


def rates_of(products: Times, flops: int) -> dict[str, float]:
    """The rates of this machine in this process: for matrix products in float32, and for copying."""
    return {"flops_per_s": flops / products.median, "bytes_per_s": copy_rate()}


def timed_row(
    part: str, name: str, times: Times, examples: int, floor: Floor, floor_examples: int, rates: dict[str, float]
) -> dict[str, Any]:
    """Seconds per example.

    Args:
        examples: the number of examples in `times`.
        floor: that of the same work on `floor_examples` examples.
    """
    least = floor.as_dict(rates)
    value, own = times.median / examples, least["seconds"] / floor_examples
    return {
        "part": part,
        "name": name,
        "unit": "s/example",
        "value": value,
        "least": min(times.wall) / examples,
        "greatest": max(times.wall) / examples,
        "cpu": sorted(times.cpu)[len(times.cpu) // 2] / examples,
        "examples": examples,
        "floor": own,
        "floor_flops": least["flops"] / floor_examples,
        "floor_bytes": least["bytes"] / floor_examples,
        "bound_by": least["bound_by"],
        "times_floor": value / own,
    }


def plain_row(part: str, name: str, unit: str, value: float, floor: float, of: str) -> dict[str, Any]:
    """A measured value and its floor in the same unit; `of` says what the floor is."""
    return {
        "part": part,
        "name": name,
        "unit": unit,
        "value": value,
        "floor": floor,
        "bound_by": of,
        "times_floor": value / floor,
    }
