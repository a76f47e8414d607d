"""The bounds that the measurements must satisfy, and whether they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bound:
    """A number that must not be above (or below) its limit; `value` finds it in the values of all parts."""

    text: str
    at_least: bool
    limit: float
    value: Callable[[Mapping[str, Any]], Any]

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The limit, the value found (with its spread if it was measured in turns; None if it was not measured), and whether
        that is within the limit."""
        try:
            found = self.value(values)
        except KeyError:
            found = None
        spread = found if isinstance(found, dict) else {"median": found}
        met = None
        if found is not None:
            met = spread["median"] >= self.limit if self.at_least else spread["median"] <= self.limit
        sign = ">=" if self.at_least else "<="
        return {"text": self.text, "limit": f"{sign} {self.limit:g}", "found": spread, "met": met}


def _named(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda values: values[name]


def _memory(above: str, below: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda values: values[f"memory: {above}"] / values[f"memory: {below}"]


def _of_kinds(name: str, *, largest: bool = False) -> Callable[[Mapping[str, Any]], Any]:
    """The smallest (or largest) of OPT's and Qwen2's values; `name` has the placeholder {kind} for these."""

    def worst(values: Mapping[str, Any]) -> Any:
        found = [values[name.format(kind=kind)] for kind in ("opt", "qwen2")]
        return (max if largest else min)(found, key=lambda one: one["median"] if isinstance(one, dict) else one)

    return worst


def _text_memory(above: str, below: str) -> Callable[[Mapping[str, Any]], float]:
    """Memory of one item over another's."""
    return lambda values: values[f"text memory: {above}"] / values[f"text memory: {below}"]


def _memory_but_for_activations(values: Mapping[str, Any]) -> float:
    """Memory with 64 answers a step, less what 48 more answers need below the output layer, over memory with 16."""
    memory = {item: values[f"text memory: {item}"] for item in ("ours", "ours_64", "body", "body_64")}
    return (memory["ours_64"] - (memory["body_64"] - memory["body"])) / memory["ours"]


def _worst_score(values: Mapping[str, Any]) -> float | None:
    names = (f"scores: {name}" for name in ("naive", "upstream", "harness", "windows"))
    return max((values[name] for name in names if name in values), default=None)


BOUNDS = (
    Bound("16 shots: upstream style takes, times llmft's time", True, 50, _named("wall: upstream over ours")),
    Bound("16 shots: lm-evaluation-harness takes, times llmft's time", True, 15, _named("wall: harness over ours")),
    Bound("16 shots over no shots, context encoded", False, 1.35, _named("wall: behind the context over no shots")),
    Bound(
        "sliding windows: CPU time, 16 shots over none, context included",
        False,
        1.45,
        _named("cpu: windows, 16 shots over none"),
    ),
    Bound("scores: greatest difference to any other way of reading", False, 1e-4, _worst_score),
    Bound("64 shots over 4: time outside attention", False, 1.1, _named("time outside attention, 64 shots over 4")),
    Bound("100 to 10000 queries: time grows with the power", False, 1.05, _named("exponent of queries")),
    Bound("distillation epoch over fine-tuning epoch", False, 1.05, _named("wall: distillation over fine-tuning")),
    Bound(
        "teacher pass over a pass over queries alone and one over the context",
        False,
        1.35,
        _named("wall: teacher pass over queries alone and context"),
    ),
    Bound("TRL SDFT takes, times a whole distillation's time", True, 6, _named("wall: sdft over whole distillation")),
    Bound("memory: 16 shots over upstream style", False, 0.5, _memory("ours", "upstream")),
    Bound("memory: distillation over fine-tuning", False, 1.05, _memory("distil", "fine_tune")),
    Bound("memory: distillation over TRL SDFT", False, 2 / 3, _memory("distil", "sdft")),
    Bound("evaluation without context: share of the matrix rate", True, 0.75, _named("wall: utilisation, no shots")),
    Bound("evaluation, 16 shots: share of the matrix rate", True, 0.75, _named("wall: utilisation, 16 shots")),
    Bound("training step, batch 32: share of the matrix rate", True, 0.6, _named("wall: utilisation, training step")),
    Bound("the meter's own share of CPU time", False, 0.01, _named("cpu: the meter's own over all")),
    Bound("CPU time with the meter over without", False, 1.01, _named("cpu: with a meter over without")),
    Bound("distill.py --help over a bare parser", False, 1.2, _named("wall: help over a bare parser")),
    Bound(
        "targets of 64 texts behind 2000 tokens: PEFT's way takes, times llmft's time",
        True,
        20,
        _of_kinds("wall: {kind} 2000: peft over targets"),
    ),
    Bound(
        "targets of 64 texts behind 2000 tokens: TRL SDFT's teacher takes, times llmft's time",
        True,
        20,
        _of_kinds("wall: {kind} 2000: sdft over targets"),
    ),
    Bound(
        "targets of 64 texts behind 2000 tokens, over document once and answers alone",
        False,
        1.4,
        _of_kinds("wall: {kind} 2000: targets over document once and answers alone", largest=True),
    ),
    Bound(
        "targets of 64 texts behind 8000 tokens: PEFT's way takes, times llmft's time",
        True,
        60,
        _of_kinds("wall: {kind} 8000: peft over targets"),
    ),
    Bound(
        "texts: distillation epoch over SFT epoch",
        False,
        1.05,
        _of_kinds("wall: {kind}: text distillation over SFT", largest=True),
    ),
    Bound(
        "texts: TRL SDFT takes, times a whole distillation's time, 2000 tokens, 3 epochs",
        True,
        8,
        _of_kinds("wall: {kind}: sdft over whole distillation of texts"),
    ),
    Bound(
        "answers behind 2000 tokens: generate on whole prompts takes, times llmft's time",
        True,
        8,
        _of_kinds("wall: {kind}: plain over writing"),
    ),
    Bound(
        "answers behind 2000 tokens: lm-evaluation-harness takes, times llmft's time",
        True,
        4,
        _of_kinds("wall: {kind}: harness over writing"),
    ),
    Bound(
        "answers behind 2000 tokens that differ from others'", False, 0, _of_kinds("{kind}: answers that differ", largest=True)
    ),
    Bound("texts, memory: distillation over transformers' own loss", False, 1 / 2, _text_memory("ours", "transformers")),
    Bound("texts, memory: distillation over TRL SDFT", False, 1 / 3, _text_memory("ours", "sdft")),
    Bound("texts, memory but for activations: 64 answers a step over 16", False, 1.2, _memory_but_for_activations),
    Bound(
        "texts, document of 8000 tokens over 500: time outside attention of a target",
        False,
        1.1,
        _named("time outside attention, targets, longest document over shortest"),
    ),
    Bound(
        "texts, document of 8000 tokens over 500: time outside attention of writing",
        False,
        1.1,
        _named("time outside attention, write, longest document over shortest"),
    ),
    Bound("texts, 100 to 10000 queries: time grows with the power", False, 1.05, _named("exponent of queries in words")),
    Bound(
        "texts: training step of LoRA: share of the matrix rate",
        True,
        0.6,
        _of_kinds("wall: {kind}: utilisation, training step on texts"),
    ),
    *(
        Bound(f"Gemma 3's shape over Llama's: {name}", False, 1.25, _named(f"wall: text windows: {work}"))
        for work, name in (("targets", "targets"), ("write", "writing"), ("epoch", "distillation epoch"))
    ),
    Bound("errors come before a model is loaded (1: yes)", True, 1, _named("errors before any model is loaded")),
)


def check_all(parts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every bound, checked against the measurements of all parts."""
    values = {key: value for part in parts.values() for key, value in part["values"].items()}
    return [bound.check(values) for bound in BOUNDS]


def line(checked: Mapping[str, Any]) -> str:
    """One checked bound as a line to print."""
    verdict = {True: "pass", False: "FAIL", None: "not measured"}[checked["met"]]
    return f"{verdict:12}  {checked['text']}: {found_text(checked)} (must be {checked['limit']})"


def found_text(checked: Mapping[str, Any]) -> str:
    """The value found, with its spread if there is one."""
    found = checked["found"]
    if found["median"] is None:
        return "-"
    text = f"{found['median']:.3g}"
    return f"{text} ({found['min']:.3g} to {found['max']:.3g})" if "min" in found else text
