"""One encoding of what all prompts share, many queries behind it.

The shared prefix (a soft prompt is part of it) goes through the model once; the queries are packed side by side into rows that
continue from its keys and values. Attention keeps the queries apart (`packed_attention.py`; where that cannot, a block-diagonal
mask) and explicit positions give each the place it would have alone, so scores equal those of whole prompts, without padding and
without a copy of the cache for every query.
Models this is not right for (sliding windows, recurrent states, no explicit positions) read whole prompts instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmft.batch_size import BatchSize
from llmft.errors import InputError
from llmft.models.gather import all_gather, rank_and_world, weights_when_needed
from llmft.models.head import precise_output
from llmft.models.kv_cache import encode, plain, read_only, reads_behind_a_cache
from llmft.models.label_scores import bare_model, encoded_virtual_tokens, on_device, unwrapped, virtual_tokens
from llmft.models.packed_attention import NAME, LostKeysError, can_pack, can_share_keys, depends_on_keys_alone, packed_batch
from llmft.models.sequence_scores import LabelSequences, masked_row, sequence_batch, sequence_logits
from llmft.prompts.tokens import TokenizedPrompts

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

logger = logging.getLogger(__name__)

LARGE = 2**20
"""Numbers of a batch's answers that do not stay on the device until the end, where that saves a wait for every batch."""


@torch.no_grad()
def read_answers(
    model: torch.nn.Module,
    prompts: TokenizedPrompts,
    labels: LabelSequences,
    keep: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    *,
    size: BatchSize,
) -> Answers:
    """Read every prompt, and keep of its answers' logits what is asked for; no (N, V) tensor is made unless that is kept.

    With several ranks each reads its share and all get everything.

    Args:
        model: a causal language model; its train/eval mode is put back afterwards.
        labels: what the logits are read for (see `sequence_scores.py`).
        keep: logits (n, R, V) of n prompts -> tensors (n, ...).
        size: how many queries go through the model together.

    Raises:
        InputError: the device's memory does not hold a batch of the size that was asked for.
    """
    rank, world = rank_and_world()
    found: list[tuple[list[int], dict[str, torch.Tensor]]] = []
    with reading(model):
        try:
            reader = PrefixReader(model, prompts.prefix, labels, size)
        except torch.OutOfMemoryError as error:
            tokens = size.tokens_on(next(model.parameters()).device.type)
            raise InputError(
                f"--max_batch_tokens {tokens}: memory does not hold the context's {len(prompts.prefix)} tokens, that many at a "
                "time; give less, or a smaller model"
            ) from error
        batches = reader.batches(prompts.suffixes)
        turns = -(-len(batches) // world)  # as many forward passes on every rank, as sharded weights need; one twice is harmless
        waiting = [batches[min(turn, len(batches) - 1)] for turn in range(rank, turns * world, world)]
        while waiting:
            batch = waiting.pop(0)
            try:
                kept = keep(reader.logits([prompts.suffixes[i] for i in batch]))
                found.append((batch, {name: t if t.numel() < LARGE else t.cpu() for name, t in kept.items()}))
            except torch.OutOfMemoryError as error:
                if size.tokens or world > 1 or len(batch) == 1:
                    tokens = size.tokens_on(reader.device.type)
                    raise InputError(
                        f"--max_batch_tokens {tokens}: memory of {reader.device} does not hold a batch of {len(batch)} queries; "
                        "give less, or a smaller model"
                    ) from error
                waiting = [half for one in (batch, *waiting) for half in (one[: len(one) // 2], one[len(one) // 2 :]) if half]
    arrays: dict[str, np.ndarray] = {}
    on_host = [(batch, {name: tensor.cpu().numpy() for name, tensor in kept.items()}) for batch, kept in found]
    for share in all_gather(on_host):
        for batch, kept in share:
            for name, part in kept.items():
                arrays.setdefault(name, np.empty((len(prompts.suffixes), *part.shape[1:]), part.dtype))[batch] = part
    return Answers(arrays, sorted(i for batch in batches[rank::world] for i in batch), reader.tokens, reader.padding_tokens)


@dataclass(frozen=True)
class Answers:
    """What was kept of N prompts' answers.

    Attributes:
        arrays: (N, ...) each, in the prompts' order.
        scored: indices of the prompts that this rank read; all ranks together read each.
        tokens: tokens that went through the model on this rank, padding left out.
        padding_tokens: padding that went through it.
    """

    arrays: dict[str, np.ndarray]
    scored: list[int]
    tokens: int
    padding_tokens: int


@contextmanager
def reading(model: torch.nn.Module) -> Iterator[None]:
    """Within, the model has no dropout, computes in its weights' precision with logits in float32 or better, and has its weights
    when it needs them; then as it was."""
    was_training, bare = model.training, bare_model(model)
    model.eval()
    # accelerate's for mixed-precision training, on the model or on peft's around it; every stage is scored alike
    prepared = [one for one in {bare, unwrapped(model)} if {"forward", "_original_forward"} <= vars(one).keys()]
    autocast = [(one, one.forward) for one in prepared]
    for one, _ in autocast:
        one.forward = one._original_forward
    try:
        with weights_when_needed(model, bare), precise_output(model):
            yield
    finally:
        model.train(was_training)
        for one, forward in autocast:
            one.forward = forward


class PrefixReader:
    """Reads queries behind a prefix, which goes through the model once.

    To be made and used within `reading` and without gradients. What is encoded stays good as long as the model's weights stay the
    same.

    Attributes:
        tokens, padding_tokens: what went through the model so far.
    """

    def __init__(self, model: torch.nn.Module, prefix: list[int], labels: LabelSequences, size: BatchSize) -> None:
        self.model, self.prefix, self.labels, self.size = model, prefix, labels, size
        self.length = virtual_tokens(model) + len(prefix)
        self.device = next(model.parameters()).device
        self.tokens = self.padding_tokens = 0
        self._behind = sum(map(len, labels.continuations))  # tokens that every query is followed by
        self._cache: DynamicCache | None = None
        self._beside: DynamicCache | None = None
        self._packs = _can_share(model)
        if self._packs and self.length:
            virtual = plain(unwrapped(model).virtual_cache()) if virtual_tokens(model) else None
            chunk = size.tokens_on(self.device.type)
            encoded = encode(model, prefix, behind=virtual, chunk=chunk)
            self._packs = encoded is not None
            if encoded is not None:
                layers = bare_model(model).config.get_text_config().num_hidden_layers
                self._cache, self._beside = (read_only(encoded, layers, joined=joined) for joined in (True, False))
            self.tokens += encoded_virtual_tokens(model) + len(prefix) if self._packs else 0
        if prefix and not self._packs:
            name = type(bare_model(model)).__name__
            logger.warning("%s: queries cannot share an encoded context, every prompt is encoded whole", name)

    def batches(self, suffixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """Indices of queries that are to be read together, by the reader's batch size."""
        if self._packs:
            masked = not self._side_by_side(max(map(len, suffixes), default=0))
            lengths = [len(suffix) + self._behind for suffix in suffixes]
            return self.size.batches(lengths, self.device.type, padded=False, masked=masked)
        each, front = len(self.labels.continuations), len(self.prefix) + encoded_virtual_tokens(self.model)
        longest = max(map(len, self.labels.continuations))
        lengths = [each * (front + len(suffix) + longest) for suffix in suffixes]
        return self.size.batches(lengths, self.device.type, padded=True)

    def logits(self, suffixes: Sequence[list[int]]) -> torch.Tensor:
        """Logits (n, R, V) of n queries, at the positions that `labels` asks for."""
        if self._packs:
            self.tokens += sum(len(suffix) + self._behind for suffix in suffixes)
            return self._packed_logits(suffixes)
        batch = sequence_batch([self.prefix + suffix for suffix in suffixes], self.labels)
        read, real = batch["input_ids"].flatten(0, 1), int(batch["attention_mask"].sum())
        self.tokens += real + encoded_virtual_tokens(self.model) * len(read)
        self.padding_tokens += read.numel() - real
        return sequence_logits(self.model, on_device(batch, self.device), self.labels)

    def _side_by_side(self, longest: int) -> bool:
        """Whether attention keeps queries of up to so many tokens apart by itself, without a mask."""
        able = can_pack(self.model, longest) and (self._cache is None or can_share_keys(self.model))
        return able and self.labels.rows == 1

    def _packed_logits(self, suffixes: Sequence[list[int]]) -> torch.Tensor:
        """Logits (n, R, V) behind n suffixes, and in the labels' continuations, that lie side by side in one row."""
        bare, cache = bare_model(self.model), self._cache
        if not self._side_by_side(max(map(len, suffixes))):
            arguments = masked_row(suffixes, self.labels.continuations, self.length, bare.dtype, self.device)
        else:
            shares = self._beside is not None
            cache = self._beside if shares else cache
            arguments = on_device(packed_batch(suffixes, self.length, shares=shares), self.device)
        try:
            output = bare(**arguments, past_key_values=cache, use_cache=cache is not None)
        except LostKeysError:  # for this model they must stand in front of the row's
            self._beside = None
            return self._packed_logits(suffixes)
        return output.logits[0].unflatten(0, (len(suffixes), self.labels.rows))


def _can_share(model: torch.nn.Module) -> bool:
    """Whether packed queries behind a cache mean the same as whole prompts for this model."""
    bare = bare_model(model)
    if bare.config._attn_implementation not in ("sdpa", NAME, "eager"):  # others take no mask of our own
        return False
    has_window = getattr(bare.config.get_text_config(), "sliding_window", None) is not None  # counted along the row
    return not has_window and depends_on_keys_alone(model) and reads_behind_a_cache(model)
