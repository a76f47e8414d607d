"""Training: an epoch of distillation compared with one of fine-tuning, the teacher pass, and other ways of distilling."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

from benchmarks import floors
from benchmarks.in_context import SHOTS, TOKENS
from benchmarks.measure import alternate, matrix_products, ratio
from benchmarks.ours import Distillation
from benchmarks.peers import RereadingTeacher, sdft
from benchmarks.results import rates_of, timed_row
from benchmarks.world import World

BATCH = 32


def measure(world: World) -> dict[str, Any]:
    """Time of an epoch in all ways, per query."""
    many, few = world.size(96, 8), world.size(32, 4)
    ours, short = (Distillation.create(world, SHOTS, n, min(BATCH, few)) for n in (many, few))
    target = ours.teacher_pass()
    loops: list[float] = []
    products, flops = matrix_products(world.shape, TOKENS)
    # these differ by a few hundredths at most: twice as many turns as for others
    times = alternate({"fine_tune": ours.fine_tune, "distil": lambda: ours.distil(target)}, 2 * world.turns)
    arms = {
        "matrix": products,
        "loop": lambda: ours.fine_tune(callbacks=[loop_clock(loops)]),
        "teacher": ours.teacher_pass,
        "alone": ours.read_queries,
        "encode": ours.encode,
    }
    times |= alternate(arms, world.turns)
    slow = {
        "whole": lambda: short.distil(short.teacher_pass()),
        "rereading": lambda: short.distil_online(rereading_teacher(short)),
    }
    if find_spec("trl"):
        theirs = Distillation.create(world, SHOTS, few, min(BATCH, few))  # a separate model: TRL removes its dropout
        slow["sdft"] = sdft(theirs, world.folder / "sdft")
    times |= alternate(slow, max(1, world.turns - 1))
    rates, shape = rates_of(times["matrix"], flops), world.shape

    student, prompts = ours.prompts("student"), ours.prompts("teacher")
    prefix, lengths = len(prompts.prefix), list(map(len, prompts.suffixes))
    whole = [len(student.prefix) + len(suffix) for suffix in student.suffixes]
    step, context = floors.training(shape, whole, BATCH), floors.encoding(shape, prefix)
    asked, alone = floors.forward(shape, lengths, prefix), floors.forward(shape, whole)
    few_step = floors.training(shape, whole[:few], BATCH) + context + floors.forward(shape, lengths[:few], prefix)
    rows = [
        timed_row("distillation", name, times[arm], many, floor, many, rates)
        for name, arm, floor in (
            ("fine-tuning epoch (PBFT)", "fine_tune", step),
            ("distillation epoch, targets there", "distil", step),
            ("teacher pass, context included", "teacher", context + asked),
            ("forward pass over the queries alone", "alone", alone),
        )
    ]
    rows += [
        timed_row("distillation", name, times[arm], few, few_step, few, rates)
        for name, arm in (
            ("distillation, teacher pass and one epoch", "whole"),
            ("online teacher, context read each time", "rereading"),
            ("TRL SDFT", "sdft"),
        )
        if arm in times
    ]
    values: dict[str, Any] = {}
    for kind in ("wall", "cpu"):
        taken = {name: getattr(found, kind) for name, found in times.items()}
        floor_pass = [a + e for a, e in zip(taken["alone"], taken["encode"], strict=True)]
        values[f"{kind}: distillation over fine-tuning"] = ratio(taken["distil"], taken["fine_tune"])
        values[f"{kind}: teacher pass over queries alone and context"] = ratio(taken["teacher"], floor_pass)
        for name in ("rereading", "sdft"):
            if name in taken:
                values[f"{kind}: {name} over whole distillation"] = ratio(taken[name], taken["whole"])
    values["wall: utilisation, training step"] = ratio(
        [step.flops / seconds for seconds in loops], [flops / seconds for seconds in times["matrix"].wall]
    )
    return {
        "rows": rows,
        "values": values,
        "rates": rates,
        "tokens": {"context": prefix, "queries": many, "query_tokens": sum(whole)},
        "times": {name: found.as_dict() for name, found in times.items()},
    }


def rereading_teacher(distillation: Distillation) -> RereadingTeacher:
    """The peer's teacher: a frozen copy of the current model, kept in addition to the student."""
    prompts = distillation.prompts("teacher")
    whole = [prompts.whole(i) for i in range(len(prompts.suffixes))]
    return RereadingTeacher(copy.deepcopy(distillation.student.model).eval(), whole, distillation.student.answers.ids)


def loop_clock(seconds: list[float]) -> Any:
    """A callback that records how long the training loop took: all steps with their data, without the setup."""
    import time

    from transformers import TrainerCallback

    class LoopClock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    return LoopClock()
