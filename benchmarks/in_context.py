"""Evaluation by in-context learning: encoding a context once, compared with encoding it again for every example."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import floors
from benchmarks.measure import alternate, matrix_products, ratio
from benchmarks.ours import Evaluation
from benchmarks.peers import Harness, upstream_style, whole_prompts
from benchmarks.results import rates_of, timed_row
from benchmarks.world import World

SHOTS = 16
TOKENS = 2048
"""Tokens in the batch with which the matrix rate is measured."""


def measure(world: World) -> dict[str, Any]:
    """Time of all ways of scoring the same prompts, per example, and whether their scores agree."""
    ours = Evaluation.create(world, SHOTS, world.size(192, 8))
    zero = Evaluation.create(world, 0, len(ours.rows))
    scorer, prompts = ours.scorer, ours.prompts
    few, fewer = world.size(6, 4), 2
    whole = [prompts.whole(i) for i in range(few)]
    texts = [scorer.prompter.context + scorer.prompter.prompt_format.query(row) for row in ours.rows[:few]]
    scores: dict[str, np.ndarray] = {}

    def keep(name: str, work: Any) -> Any:
        return lambda: scores.__setitem__(name, work())

    theirs, tokenizer = world.load()  # a separate model: ours gets another attention
    older, width = world.load("eager")[0], world.shape.positions
    products, flops = matrix_products(world.shape, TOKENS)
    arms = {
        "matrix": products,
        "encode": ours.encode,
        "ours": keep("ours", lambda: ours.score()["token_logprobs"]),
        "zero": zero.score,
        "naive": keep("naive", lambda: whole_prompts(theirs, whole, scorer.answers.ids)),
        "upstream": keep("upstream", lambda: upstream_style(older, whole[:fewer], scorer.answers.ids, width)),
        "upstream_sdpa": keep("upstream_sdpa", lambda: upstream_style(theirs, whole[:fewer], scorer.answers.ids, width)),
    }
    counts = {"ours": len(ours.rows), "zero": len(ours.rows), "naive": few, "upstream": fewer, "upstream_sdpa": fewer}
    if find_spec("lm_eval"):
        harness = Harness(theirs, tokenizer)
        arms["harness"] = keep("harness", lambda: harness.scores(texts, scorer.prompter.prompt_format.words))
        counts["harness"] = few
    alternate({name: arms[name] for name in ("encode", "matrix")}, 1)  # so that nothing is measured cold
    times = alternate(arms, world.turns)
    # a few hundredths matter between these, which are the fastest: twice as many turns
    fast = alternate({name: arms[name] for name in ("matrix", "encode", "ours", "zero")}, world.turns)
    times |= {name: times[name] + more for name, more in fast.items()}
    rates = rates_of(times["matrix"], flops)

    lengths, prefix = list(map(len, prompts.suffixes)), len(prompts.prefix)
    shape = world.shape
    asked = floors.forward(shape, lengths, prefix)
    floor = floors.encoding(shape, prefix) + asked
    alone = floors.forward(shape, [len(zero.prompts.prefix) + len(suffix) for suffix in zero.prompts.suffixes])
    names = {
        "ours": f"llmft, {SHOTS} shots",
        "zero": "llmft, no shots",
        "naive": "every prompt read whole",
        "harness": "lm-evaluation-harness",
        "upstream": "upstream style",
        "upstream_sdpa": "upstream style with today's attention",
    }
    rows = [timed_row("in-context", "encoding the context", times["encode"], 1, floors.encoding(shape, prefix), 1, rates)]
    for name, text in names.items():
        if name in counts:
            least = alone if name == "zero" else floor
            rows.append(timed_row("in-context", text, times[name], counts[name], least, len(lengths), rates))

    def each(name: str, kind: str, turns: int) -> list[float]:
        return [seconds / counts[name] for seconds in getattr(times[name], kind)[:turns]]

    values: dict[str, Any] = {}
    for kind in ("wall", "cpu"):
        behind = [t - e for t, e in zip(getattr(times["ours"], kind), getattr(times["encode"], kind), strict=True)]
        for name in counts.keys() - {"ours"}:
            turns = len(times[name].wall)
            values[f"{kind}: {name} over ours"] = ratio(each(name, kind, turns), each("ours", kind, turns))
        values[f"{kind}: behind the context over no shots"] = ratio(behind, getattr(times["zero"], kind))
        products_s = getattr(times["matrix"], kind)
        values[f"{kind}: utilisation, no shots"] = ratio(
            [alone.flops / t for t in getattr(times["zero"], kind)], [flops / t for t in products_s]
        )
        values[f"{kind}: utilisation, {SHOTS} shots"] = ratio([asked.flops / t for t in behind], [flops / t for t in products_s])
    for name in scores.keys() - {"ours"}:
        values[f"scores: {name}"] = float(abs(scores[name] - scores["ours"][: len(scores[name])]).max())
    return {
        "rows": rows,
        "values": values,
        "spread_of_scores": float(np.ptp(scores["ours"], axis=0).min()),
        "tokens": {"context": prefix, "query_mean": float(np.mean(lengths)), "query_longest": max(lengths)},
        "rates": rates,
        "times": {name: found.as_dict() for name, found in times.items()},
    }
