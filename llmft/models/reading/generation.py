"""Answers that a model writes, with transformers' own `generate`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generation:
    """How answers are generated.

    Attributes:
        max_new_tokens: maximum number of tokens of an answer.
        temperature: 0 for greedy decoding. Otherwise tokens are drawn with numbers that depend only on the seed and the
            prompt's tokens, not on the rest of the batch or on how many processes share the prompts. The same prompt always gets
            the same answer.
        stop: texts that end an answer once it contains one of them.
        end_ids: tokens each of which ends an answer.
    """

    max_new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    end_ids: tuple[int, ...] = ()
    seed: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """What answers depend on, JSON-able: the seed only if tokens are drawn."""
        drawn = {"temperature": self.temperature, "seed": self.seed} if self.temperature else {}
        return {"max_new_tokens": self.max_new_tokens, "stop": list(self.stop), "end_ids": list(self.end_ids), **drawn}


@dataclass(frozen=True)
class Written:
    """What was written after N prompts.

    Attributes:
        ids: (N) the tokens of each answer, including what ended it.
        scored: indices of the prompts that this rank continued; all ranks together continue each.
        tokens: number of tokens that went through the model on this rank, without padding. The last of an answer does not.
        padding_tokens: padding that went through it, including tokens after answers that ended before others in their batch.
    """

    ids: list[list[int]]
    scored: list[int]
    tokens: int
    padding_tokens: int


class Endings(StoppingCriteria):
    """Tracks which answers of a batch have ended, and their lengths. `generate` pads those that have, as it does for any
    criterion with an `eos_token_id`.

    Args:
        start: the index of the first token written.
        written: how many tokens each answer has so far.
        leave: once at most this many answers are unfinished, all stop, so that these can continue without the others.
    """

    def __init__(
        self,
        batch: int,
        start: int,
        generation: Generation,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        *,
        written: int = 0,
        leave: int = 0,
    ) -> None:
        self.start, self.stop, self.tokenizer, self.leave = start, generation.stop, tokenizer, leave
        self.eos_token_id = torch.tensor(generation.end_ids, dtype=torch.int64, device=device)
        self.lengths = torch.full((batch,), written, dtype=torch.int64, device=device)
        self.ended = torch.zeros(batch, dtype=torch.bool, device=device)
        self.left = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """(B,) whether each has ended, or has stopped for now."""
        if self.left:  # on some devices `generate` writes one more token and then drops it
            return torch.ones_like(self.ended)
        self.lengths += ~self.ended
        self.ended |= torch.isin(input_ids[:, -1], self.eos_token_id)
        if self.stop:
            running = (~self.ended).nonzero()[:, 0]
            texts = self.tokenizer.batch_decode(input_ids[running, self.start :].tolist())
            stopped = [any(stop in text for stop in self.stop) for text in texts]
            self.ended[running] = torch.tensor(stopped, dtype=torch.bool, device=self.ended.device)
        self.left = bool(self.leave) and int((~self.ended).sum()) <= self.leave
        return torch.ones_like(self.ended) if self.left else self.ended


class RowSampler(LogitsProcessor):
    """Keeps in each row only the token on which its number falls, by inverse transform sampling: tokens are intervals as wide
    as they are probable.

    Args:
        numbers: (B, S) float64 in [0, 1), for each row and token to be written.
        start: the index of the first token written.
    """

    def __init__(self, numbers: torch.Tensor, start: int, temperature: float) -> None:
        self.numbers, self.start, self.temperature = numbers, start, temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) -> (B, V)."""
        ends = (scores.to(self.numbers) / self.temperature).softmax(-1).cumsum(-1)
        number = self.numbers[:, input_ids.shape[1] - self.start, None] * ends[:, -1:]
        token = torch.searchsorted(ends, number, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token.to(scores.device), 0.0)


def drawing_device(device: torch.device) -> torch.device:
    """Where the tokens of a model on this device are drawn: on the CPU if it is MPS, which has no float64, or must compute
    deterministically (--full_determinism): a GPU has no such `cumsum`."""
    elsewhere = device.type == "mps" or torch.are_deterministic_algorithms_enabled()
    return torch.device("cpu") if elsewhere else device


def uniform_numbers(prompts: Sequence[Sequence[int]], generation: Generation) -> torch.Tensor:
    """(B, S) float64 in [0, 1): the numbers with which tokens are drawn, from the seed and each prompt's tokens."""
    rows = []
    for prompt in prompts:
        digest = hashlib.sha256(np.array(prompt, dtype="<i8")).digest()
        rows.append(np.random.default_rng([generation.seed, *digest]).random(generation.max_new_tokens))
    return torch.from_numpy(np.stack(rows))


def write(
    bare: PreTrainedModel,
    inputs: dict[str, Any],
    prompts: Sequence[Sequence[int]],
    generation: Generation,
    tokenizer: PreTrainedTokenizerBase,
    *,
    synced: bool,
    leaves: bool = False,
    processors: Sequence[LogitsProcessor] = (),
) -> tuple[list[list[int]], int]:
    """Write an answer after each prompt of a batch.

    Generation settings of the model's checkpoint (sampling, penalties on repetition) are ignored.

    Args:
        inputs: arguments with which the model reads the B prompts, padded on the left.
        prompts: all tokens of each.
        synced: whether all ranks continue until the last has finished, as sharded weights require.
        leaves: whether answers that have ended leave the batch when half of it has; the inputs then include a cache, and their
            mask covers the rows' own tokens; not with `synced` or `processors`.
        processors: change the logits (B, V) of each token before it is chosen.

    Returns:
        The tokens of each answer, including what ended it; and how many tokens of any kind have gone through the model.
    """
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0  # with embeddings `generate` returns only what follows
    device = drawing_device(bare.device)
    numbers = uniform_numbers(prompts, generation).to(device) if generation.temperature else None
    answers: list[list[int]] = [[] for _ in prompts]
    rows, written = torch.arange(len(prompts)), 0
    with _passes(bare) as passes:
        others = [Uncounted(processor, passes) for processor in processors]
        while True:
            leave = len(rows) // 2 if leaves else 0
            endings = Endings(len(rows), start, generation, tokenizer, bare.device, written=written, leave=leave)
            own = [] if numbers is None else [RowSampler(numbers[rows.to(device)], start, generation.temperature)]
            # the pad token follows what has ended
            config = GenerationConfig(max_new_tokens=generation.max_new_tokens - written, do_sample=False, pad_token_id=0)
            with _settings(bare, config):
                ids = bare.generate(
                    **inputs,
                    generation_config=config,
                    logits_processor=[*others, *own],
                    stopping_criteria=[endings],
                    synced_gpus=synced,
                )
            for row, tokens, length in zip(rows.tolist(), ids[:, start:].tolist(), endings.lengths.tolist(), strict=True):
                answers[row] = tokens[:length]
            written, running = ids.shape[1] - start, (~endings.ended).nonzero()[:, 0]
            if written == generation.max_new_tokens or not len(running):
                break
            inputs, rows = _going_on(inputs, ids, running), rows[running.cpu()]
    return answers, sum(passes)


def _going_on(inputs: dict[str, Any], ids: torch.Tensor, rows: torch.Tensor) -> dict[str, Any]:
    """Arguments with which the model continues only these rows, of which it has read all tokens (B, t) except the last."""
    cache, mask, new = inputs["past_key_values"], inputs["attention_mask"], ids.shape[1] - inputs["attention_mask"].shape[1]
    cache.batch_select_indices(rows)
    return {
        "input_ids": ids[rows],
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), new)], dim=1)[rows],
        "position_ids": inputs["position_ids"][rows, -1:] + new,
        "past_key_values": cache,
    }


@contextmanager
def _settings(bare: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Context manager: the model has these settings and none of its own, from which `generate` would fill in missing ones."""
    before = bare.generation_config
    bare.generation_config = config
    try:
        yield
    finally:
        bare.generation_config = before


class Uncounted(LogitsProcessor):
    """A processor whose own passes through the model are not among `sizes`: whoever has them made counts them."""

    def __init__(self, processor: LogitsProcessor, sizes: list[int]) -> None:
        self.processor, self.sizes = processor, sizes

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The processor's logits (B, V)."""
        before = len(self.sizes)
        changed = self.processor(input_ids, scores)
        del self.sizes[before:]
        return changed


@contextmanager
def _passes(bare: PreTrainedModel) -> Iterator[list[int]]:
    """Context manager: a list of the number of tokens in each forward pass of the model."""
    sizes: list[int] = []

    def note(_module: torch.nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
        tokens = inputs.get("input_ids")
        sizes.append(tokens.numel() if tokens is not None else inputs["inputs_embeds"].shape[:2].numel())

    handle = bare.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()
