"""The computations that check a device: the models' ways of reading, and a distillation in the embedded world."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmft.doctor.machine import PRECISIONS
from llmft.errors import InputError, one_line
from llmft.models.load import load_model, short_name
from llmft.models.reading.reader import agreement_of
from llmft.models.wrapping import bare_model
from llmft.pipelines.functions import distill, in_context
from llmft.prompts.render import PromptFormat
from llmft.worlds.nli.world import LABEL_WORDS, PATTERN, toy_splits

if TYPE_CHECKING:
    from llmft.arguments.model import ModelArguments

SHOTS, QUERIES, ROWS = 16, 64, 100
"""Numbers of rows of the embedded task used as demonstrations, for distillation, and for evaluation."""
TRAINING = {"learning_rate": 1e-3, "num_train_epochs": 3}

EXPECTED: Mapping[str, Mapping[str, float]] = {
    "before": {"score_accuracy": 0.55, "ece": 0.0956},
    "teacher": {"score_accuracy": 1.0, "ece": 0.0005},
    "after": {"score_accuracy": 1.0, "ece": 0.1493},
}
"""Stage -> metric -> result of this check on a CPU (x86-64 with AVX2, torch 2.13, one thread). If you pretrain the embedded
model again, update these numbers."""
TOLERANCE = 0.02
"""Maximum deviation of metrics from these. Random changes of the weights by a millionth moved the metrics by .0001, changes by a
thousandth (about the rounding of TF32) by .012."""


@dataclass(frozen=True)
class Check:
    """One check, with its result and the expected result as text.

    Attributes:
        too_large: whether it could not be made because the device has too little memory.
    """

    device: str
    what: str
    seen: str
    expected: str
    passed: bool
    too_large: bool = False

    @property
    def verdict(self) -> str:
        """The result in short."""
        return "ok" if self.passed else "TOO LARGE" if self.too_large else "WRONG"

    @property
    def complaint(self) -> str:
        """One line on a check that has failed."""
        wrong = "too large for" if self.too_large else "wrong on"
        return f"{wrong} {self.device}: {self.what}: {self.seen}, expected {self.expected}"


def reading_checks(model: torch.nn.Module, name: str, device: torch.device) -> Iterator[Check]:
    """Whether the model's fast ways of reading agree with its plain one on a device; no check for a model that has none.

    Args:
        name: the model's name in the output.
    """
    model = model.to(device)
    agreement, precision = agreement_of(model), str(bare_model(model).dtype).removeprefix("torch.")
    for way, difference in agreement.differences.items():
        seen = agreement.failure if difference == math.inf and agreement.failure else f"{difference:.1e} off whole prompts"
        what, passed = f"{name} in {precision}, read {way}", difference <= agreement.tolerance
        yield Check(str(device), what, seen, f"at most {agreement.tolerance:g}", passed)


def model_checks(flags: ModelArguments, device: torch.device) -> Iterator[Check]:
    """Checks of the ways of reading of the model that the flags name, on a device. The model is loaded at once, the checks are
    made as they are asked for.

    Raises:
        InputError: there is no such model.
    """
    name = short_name(flags.model_name_or_path)
    model, _ = load_model(
        flags.model_name_or_path,
        dtype=flags.torch_dtype or "float32",
        attn_implementation=flags.attn_implementation,
        revision=flags.model_revision,
        cache_dir=flags.cache_dir,
        gguf_file=flags.gguf_file,
        tokenizer_name=flags.tokenizer_name,
        trust_remote_code=flags.trust_remote_code,
    )
    return _or_failed(device, name, _some_reading_check(model, name, device))


def _some_reading_check(model: torch.nn.Module, name: str, device: torch.device) -> Iterator[Check]:
    checks = [*reading_checks(model, name, device)]
    yield from checks or [Check(str(device), f"{name}: ways of reading", "only reads whole prompts", "", passed=True)]


def embedded_checks(device: torch.device) -> Iterator[Check]:
    """Checks of the embedded model's ways of reading in each precision, and of its distillation, on a device. A check that cannot
    be computed counts as failed."""
    for precision in PRECISIONS:
        yield from _or_failed(device, f"toy in {precision}", _toy_checks(precision, device))
    yield from _or_failed(device, "distillation of toy", _distillation_checks(device))


def _toy_checks(precision: str, device: torch.device) -> Iterator[Check]:
    yield from reading_checks(load_model("toy", dtype=precision)[0], "toy", device)


def _distillation_checks(device: torch.device) -> Iterator[Check]:
    model, tokenizer = load_model("toy")
    model, rows = model.to(device), toy_splits(None, data_seed=0)
    shots, queries, asked = rows["train"][:SHOTS], rows["train"][SHOTS : SHOTS + QUERIES], rows["validation"][:ROWS]
    prompt = PromptFormat(PATTERN, prefix="", separator="\n\n", words=LABEL_WORDS)

    def check(stage: str, model: torch.nn.Module, **more: Any) -> Check:
        metrics, expected = in_context(model, tokenizer, asked, prompt=prompt, **more)[0], EXPECTED[stage]
        passed = all(abs(metrics[name] - value) <= TOLERANCE for name, value in expected.items())
        seen, should = (", ".join(f"{name} {one[name]:.3f}" for name in expected) for one in (metrics, expected))
        return Check(str(device), f"distillation of toy, {stage}", seen, f"{should}, {TOLERANCE:g} more or less", passed)

    yield check("before", model)
    yield check("teacher", model, demonstrations=shots)
    on_cpu = device.type == "cpu"
    yield check("after", distill(model, tokenizer, queries, prompt=prompt, demonstrations=shots, use_cpu=on_cpu, **TRAINING))


def _or_failed(device: torch.device, what: str, checks: Iterator[Check]) -> Iterator[Check]:
    """The checks, plus a failed one if they raise an error because the device cannot compute something, gives NaN, or has too
    little memory."""
    try:
        yield from checks
    except (RuntimeError, InputError) as error:
        too_large = any(isinstance(one, torch.OutOfMemoryError) for one in (error, error.__cause__))
        seen = f"{type(error).__name__}: {one_line(error)}"
        yield Check(str(device), what, seen, "no error", passed=False, too_large=too_large)
