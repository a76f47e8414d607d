"""What measuring costs: the same matrix products with and without a meter that watches."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import alternate, matrix_products, ratio
from benchmarks.results import plain_row
from benchmarks.world import World
from llmft.cost.meter import Meter

TOKENS = 512


def measure(world: World) -> dict[str, Any]:
    """Seconds of the same work in turns."""
    products, _ = matrix_products(world.shape, TOKENS)

    def watched() -> None:
        meter = Meter(from_start=False)
        with meter.measuring(), meter.phase("work"):
            products()

    products()
    times = alternate({"without": products, "with": watched}, 10 * world.turns)  # a hundredth among noise
    rows = [plain_row("meter", "matrix products", "s", times["with"].median, times["without"].median, "the same without a meter")]
    values = {
        "wall: with a meter over without": ratio(times["with"].wall, times["without"].wall),
        "cpu: with a meter over without": ratio(times["with"].cpu, times["without"].cpu),
    }
    return {"rows": rows, "values": values, "times": {name: found.as_dict() for name, found in times.items()}}
