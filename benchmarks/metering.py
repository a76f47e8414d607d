"""The cost of measuring: the same matrix products with and without a running meter, and the CPU time of the meter itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import alternate, matrix_products, ratio
from benchmarks.results import plain_row
from benchmarks.world import World
from llmft.cost.meter import Meter
from llmft.cost.phases import Phase

TOKENS = 512


@dataclass
class Weighed(Meter):
    """A meter that knows its own CPU seconds: those of the sampling thread, and of phase changes."""

    own_s: float = 0.0

    def _switch(self, to: Phase | None) -> None:
        begun = time.thread_time()
        super()._switch(to)
        self.own_s += time.thread_time() - begun

    def _keep_sampling(self) -> None:
        super()._keep_sampling()
        self.own_s += time.thread_time()  # everything that this thread has used


def measure(world: World) -> dict[str, Any]:
    """Seconds of the same work, in turns."""
    products, _ = matrix_products(world.shape, TOKENS)
    weighed = []

    def watched() -> None:
        meter = Weighed(from_start=False)
        with meter.measuring(), meter.phase("work"):
            products()
        weighed.append(meter.own_s)

    products()
    times = alternate({"without": products, "with": watched}, 10 * world.turns)  # a hundredth, within noise
    rows = [plain_row("meter", "matrix products", "s", times["with"].median, times["without"].median, "the same without a meter")]
    values = {
        "wall: with a meter over without": ratio(times["with"].wall, times["without"].wall),
        "cpu: with a meter over without": ratio(times["with"].cpu, times["without"].cpu),
        "cpu: the meter's own over all": ratio(weighed, times["with"].cpu),
    }
    return {"rows": rows, "values": values, "times": {name: found.as_dict() for name, found in times.items()}}
