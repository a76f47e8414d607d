"""Checks that prompts read side by side get the same logits as whole prompts, once, before that is relied on.

Reading side by side depends on kernels that differ between devices (`softmax.kernel_for`), and not every device has been
tested. So the first time that a process reads with a kind of model, on a kind of device, in a precision, two short prompts are
read in each fast way and as whole prompts. If the logits differ by more than rounding explains, a warning says so, and whole
prompts are read from then on, in training as well. Windows are narrowed for the comparison, so that they end within the prompts.

The prompts are always the same, and nothing is random. Ranks use the largest difference that any of them sees, so they all decide
the same. Tokens read here are not counted; the time is in the current phase, which for the scripts is `load`.

The comparison does not cover labels of several tokens, which use a mask over the row and torch's own attention, nor generation,
which combines plain products with the attention to shared keys that is compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmft.models.fingerprint import NO_MATTER
from llmft.models.reading.attention import NAME
from llmft.models.reading.continuations import Continued
from llmft.models.wrapping import bare_model, precise
from llmft.runs.notes import say_note
from llmft.runs.ranks import all_gather

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BEHIND, BESIDE = "after a shared context", "side by side"
"""The fast ways: queries that continue from shared keys and values, and whole prompts in one row, as in packed training."""

LENGTHS = (8, 3, 6)
"""Numbers of tokens of the shared context and of the two queries after it."""

WINDOW = 5
"""Number of tokens that layers with a window see in the comparison: fewer than in the context, and in the longer query."""

TOLERANCES = {torch.float16: 0.03, torch.bfloat16: 0.15}
"""The largest difference that rounding explains in half precision. We saw at most .004 and .035, and .25 to 1.3 with wrong
kernels (two embedded models, SmolLM2-135M, Qwen2.5-0.5B)."""
TOLERANCE = 1e-3
"""The same in float32 and better: we saw 1e-5; the rest leaves room for TF32."""

FEW = 100
"""Fewer logits than this are a classifier's, and may be close together by chance: errors are then relative to their size."""

Read = Callable[[Continued, bool], torch.Tensor]
"""Prompts, and whether they are read side by side -> logits (2, V) after each."""


@dataclass(frozen=True)
class Agreement:
    """How much a model's fast ways of reading differ from the plain one.

    Attributes:
        name: the model's class, precision and device.
        differences: way -> root mean square difference of the logits after a prompt, as a share of their standard deviation over
            the vocabulary; infinite if the way fails. Empty for a model without fast ways.
        tolerance: the largest difference that rounding explains.
        failure: the error of a way that fails.
    """

    name: str
    differences: dict[str, float]
    tolerance: float
    failure: str = ""

    @property
    def holds(self) -> bool:
        """Whether the fast ways may be used."""
        return all(difference <= self.tolerance for difference in self.differences.values())

    def __str__(self) -> str:
        """What is wrong and what is done about it, in one line."""
        way = max(self.differences, key=self.differences.__getitem__)
        differ = f"differ by {self.differences[way]:.1%} of their spread, rounding explains {self.tolerance:.1%}"
        return (
            f"{self.name}: logits of prompts read {way} are not those of whole prompts ({self.failure or differ}); whole prompts "
            "are read instead, which is slower; `python -m llmft.doctor` checks this machine"
        )


_AGREEMENTS: dict[str, Agreement] = {}


def agreement(model: torch.nn.Module, read: Read, ways: Sequence[str]) -> Agreement:
    """The result for the model's kind, device and precision in this process; compared now if it has not been yet. All ranks
    must call this together.

    Args:
        read: reads with the model, within `reader.reading`.
        ways: the model's fast ways.
    """
    kind = _kind(model)
    if kind not in _AGREEMENTS:
        with _narrow_windows(bare_model(model)):
            _AGREEMENTS[kind] = _compare(model, read, ways)
        if not _AGREEMENTS[kind].holds:
            say_note(str(_AGREEMENTS[kind]), "warning")
    return _AGREEMENTS[kind]


def disagreements() -> list[str]:
    """One line for each kind of model, device and precision for which this process reads whole prompts instead."""
    return [str(one) for one in _AGREEMENTS.values() if not one.holds]


def _name(model: torch.nn.Module) -> str:
    bare, device = bare_model(model), next(model.parameters()).device
    return f"{type(bare).__name__} in {str(bare.dtype).removeprefix('torch.')} on {device.type}"


def _kind(model: torch.nn.Module) -> str:
    """What determines which kernels run, the same on all ranks: architecture, precision and kind of device."""
    config = bare_model(model).config
    output = {"vocab_size", "tie_word_embeddings"}  # these may change later
    settings = {n: value for n, value in config.get_text_config().to_dict().items() if n not in NO_MATTER | output}
    attention = "sdpa" if config._attn_implementation == NAME else config._attn_implementation
    return json.dumps([_name(model), attention, settings], sort_keys=True, default=str)


def _compare(model: torch.nn.Module, read: Read, ways: Sequence[str]) -> Agreement:
    bare = bare_model(model)
    prefix, suffixes = _prompts(bare.config.get_text_config().vocab_size)
    whole = Continued([], [[*prefix, *suffix] for suffix in suffixes], [1, 1], [(), ()])
    prompts = {BEHIND: Continued(prefix, suffixes, [1, 1], [(), ()]), BESIDE: whole}
    plain = read(whole, False) if ways else None
    differences, failure = {}, ""
    for way in ways:
        try:
            differences[way] = _difference(read(prompts[way], True), plain)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # usually there is no such kernel
            differences[way], failure = math.inf, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    ranks = all_gather((differences, failure))
    worst = {way: max(one[way] for one, _ in ranks) for way in ways}
    return Agreement(_name(model), worst, TOLERANCES.get(bare.dtype, TOLERANCE), max(failure for _, failure in ranks))


@contextmanager
def _narrow_windows(bare: PreTrainedModel) -> Iterator[None]:
    """Context manager: every window of the model has `WINDOW` tokens."""
    with ExitStack() as stack:
        for holder in (bare.config.get_text_config(), *bare.modules()):
            window = vars(holder).get("sliding_window")
            if isinstance(window, int):
                stack.callback(setattr, holder, "sliding_window", window)
                holder.sliding_window = WINDOW
        yield


def _prompts(vocabulary: int) -> tuple[list[int], list[list[int]]]:
    """Tokens from the whole vocabulary: a context, and two queries."""
    tokens = np.random.RandomState(0).randint(vocabulary, size=sum(LENGTHS))
    prefix, *suffixes = np.split(tokens, np.cumsum(LENGTHS)[:-1])
    return prefix.tolist(), [suffix.tolist() for suffix in suffixes]


def _difference(logits: torch.Tensor, plain: torch.Tensor) -> float:
    """As in `Agreement.differences`, for the prompt that differs most, both (2, V). A constant added to all tokens does not
    count; neither do tokens for which the plain way gives no finite number."""
    shares = [0.0]
    for row, expected in zip(precise(logits), precise(plain), strict=True):
        known = expected.isfinite()
        if known.any():
            error, spread = (row - expected)[known].std(correction=0), expected[known].std(correction=0)
            if known.sum() < FEW:
                spread = expected[known].square().mean().sqrt()
            share = (error / spread.clamp(min=torch.finfo(spread.dtype).tiny)).item()
            shares.append(math.inf if math.isnan(share) else share)
    return max(shares)
