"""Whether prompts that lie side by side get the logits that they get as whole prompts: looked at once, before it is relied on.

Reading side by side rests on kernels that differ from device to device (`softmax.kernel_for`), and not every device has been
tried. So the first time that a process reads with a kind of model, on a kind of device, in a precision, two short prompts are
read in each fast way and as whole prompts. Where the logits differ by more than rounding explains, a warning says so, and whole
prompts are read from then on, in training as well. Windows are narrowed for the comparison, so that they end within the prompts.

The prompts are always the same, and nothing is random. Ranks go by the largest difference that any of them sees, so they decide
alike. What is read here counts as nobody's tokens; its time is in the phase in which it happens, for the scripts `load`.

Not compared are labels of several tokens, which go by a mask over the row and torch's own attention, and writing, which puts
plain products together with the attention to shared keys that is compared.
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

BEHIND, BESIDE = "behind a shared context", "side by side"
"""The fast ways: queries that continue from shared keys and values, and whole prompts in one row, as packed training has them."""

LENGTHS = (8, 3, 6)
"""Tokens of the shared context and of the two queries behind it."""

WINDOW = 5
"""Tokens that layers with a window see in the comparison: fewer than the context has, and than the longer query."""

TOLERANCES = {torch.float16: 0.03, torch.bfloat16: 0.15}
"""The largest difference that rounding explains in half precision. Seen: at most .004 and .035, and .25 to 1.3 of wrong kernels
(two embedded models, SmolLM2-135M, Qwen2.5-0.5B)."""
TOLERANCE = 1e-3
"""The same in float32 and better: seen 1e-5; the rest is room for TF32."""

FEW = 100
"""Fewer logits than that are a classifier's, and may lie close together by chance: errors are measured by their size instead."""

Read = Callable[[Continued, bool], torch.Tensor]
"""Prompts, and whether they are read side by side -> logits (2, V) behind each."""


@dataclass(frozen=True)
class Agreement:
    """How far a model's fast ways of reading are from its plain one.

    Attributes:
        name: the model's class, precision and device.
        differences: way -> root mean square difference of the logits behind a prompt, as a share of their standard deviation over
            the vocabulary; infinite where the way fails. Empty for a model that has no fast way.
        tolerance: the largest that rounding explains.
        failure: what a way that fails has raised.
    """

    name: str
    differences: dict[str, float]
    tolerance: float
    failure: str = ""

    @property
    def holds(self) -> bool:
        """Whether the fast ways may be taken."""
        return all(difference <= self.tolerance for difference in self.differences.values())

    def __str__(self) -> str:
        """What is wrong and what is done about it, in a line."""
        way = max(self.differences, key=self.differences.__getitem__)
        differ = f"differ by {self.differences[way]:.1%} of their spread, rounding explains {self.tolerance:.1%}"
        return (
            f"{self.name}: logits of prompts read {way} are not those of whole prompts ({self.failure or differ}); whole prompts "
            "are read instead, which is slower; `python -m llmft.doctor` looks at this machine"
        )


_AGREEMENTS: dict[str, Agreement] = {}


def agreement(model: torch.nn.Module, read: Read, ways: Sequence[str]) -> Agreement:
    """What this process has seen of the model's kind, device and precision; it is looked at now if it has not been yet. All ranks
    must ask together.

    Args:
        read: reads with the model, within `reader.reading`.
        ways: the fast ones that the model has.
    """
    kind = _kind(model)
    if kind not in _AGREEMENTS:
        with _narrow_windows(bare_model(model)):
            _AGREEMENTS[kind] = _compare(model, read, ways)
        if not _AGREEMENTS[kind].holds:
            say_note(str(_AGREEMENTS[kind]), "warning")
    return _AGREEMENTS[kind]


def disagreements() -> list[str]:
    """A line for each kind of model, device and precision for which this process reads whole prompts instead."""
    return [str(one) for one in _AGREEMENTS.values() if not one.holds]


def _name(model: torch.nn.Module) -> str:
    bare, device = bare_model(model), next(model.parameters()).device
    return f"{type(bare).__name__} in {str(bare.dtype).removeprefix('torch.')} on {device.type}"


def _kind(model: torch.nn.Module) -> str:
    """What decides which kernels run, alike on all ranks: architecture, precision and kind of device."""
    config = bare_model(model).config
    output = {"vocab_size", "tie_word_embeddings"}  # which may be replaced later
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
        except RuntimeError as error:  # there is no such kernel, as a rule
            differences[way], failure = math.inf, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    ranks = all_gather((differences, failure))
    worst = {way: max(one[way] for one, _ in ranks) for way in ways}
    return Agreement(_name(model), worst, TOLERANCES.get(bare.dtype, TOLERANCE), max(failure for _, failure in ranks))


@contextmanager
def _narrow_windows(bare: PreTrainedModel) -> Iterator[None]:
    """Context: every window of the model has `WINDOW` tokens."""
    with ExitStack() as stack:
        for holder in (bare.config.get_text_config(), *bare.modules()):
            window = vars(holder).get("sliding_window")
            if isinstance(window, int):
                stack.callback(setattr, holder, "sliding_window", window)
                holder.sliding_window = WINDOW
        yield


def _prompts(vocabulary: int) -> tuple[list[int], list[list[int]]]:
    """Tokens from all over the vocabulary: a context, and two queries."""
    tokens = np.random.RandomState(0).randint(vocabulary, size=sum(LENGTHS))
    prefix, *suffixes = np.split(tokens, np.cumsum(LENGTHS)[:-1])
    return prefix.tolist(), [suffix.tolist() for suffix in suffixes]


def _difference(logits: torch.Tensor, plain: torch.Tensor) -> float:
    """As in `Agreement.differences`, of the prompt that differs most, both (2, V). What all tokens have in common does not count;
    neither do tokens to which the plain way gives no finite number."""
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
