"""One encoding of what all prompts share, many queries behind it.

The shared prefix (a soft prompt is part of it) goes through the model once; the queries are packed side by side into rows that
continue from its keys and values. A block-diagonal mask keeps the queries apart and explicit positions give each the place it
would have alone, so scores equal those of whole prompts, without padding and without a copy of the cache for every query.
Models this is not right for (sliding windows, recurrent states, no explicit positions) read whole prompts instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmft.models.gather import all_gather, rank_and_world, whole_weights
from llmft.models.kv_cache import encode, plain, reads_behind_a_cache
from llmft.models.label_scores import (
    AnswerScores,
    bare_model,
    encoded_virtual_tokens,
    unwrapped,
    virtual_tokens,
)
from llmft.models.sequence_scores import LabelSequences, pack, sequence_batch, sequence_logits
from llmft.models.supports import kept_of
from llmft.prompts.tokens import TokenizedPrompts

logger = logging.getLogger(__name__)


def score_answers(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_ids: Sequence[int], *, queries_per_row: int
) -> AnswerScores:
    """Score every prompt's answer position; with several ranks each scores its share and all get all scores.

    Args:
        model: a causal language model; its train/eval mode is put back afterwards.
        prompts: N prompts.
        label_ids: L token ids, in label order.
        queries_per_row: how many queries go through the model together.

    Returns:
        Scores in the order of the prompts.
    """
    return score_sequences(model, prompts, [[token] for token in label_ids], queries_per_row=queries_per_row)


def score_sequences(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_sequences: Sequence[Sequence[int]], *, queries_per_row: int
) -> AnswerScores:
    """As `score_answers`, for labels of any number of tokens (L lists, in label order; see `sequence_scores.py`).

    `best_token` is that of the first position.
    """
    labels = LabelSequences.create(label_sequences)
    found = read_answers(model, prompts, labels, kept_of("scores", labels, None), queries_per_row=queries_per_row)
    return AnswerScores(**found.arrays, scored=found.scored, tokens=found.tokens, padding_tokens=found.padding_tokens)


@torch.no_grad()
def read_answers(
    model: torch.nn.Module,
    prompts: TokenizedPrompts,
    labels: LabelSequences,
    keep: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    *,
    queries_per_row: int,
) -> Answers:
    """Read every prompt, and keep of its answers' logits what is asked for; no (N, V) tensor is made unless that is kept.

    With several ranks each reads its share and all get everything.

    Args:
        model: a causal language model; its train/eval mode is put back afterwards.
        labels: what the logits are read for (see `sequence_scores.py`).
        keep: logits (n, R, V) of n prompts -> tensors (n, ...).
        queries_per_row: how many queries go through the model together.
    """
    order = sorted(range(len(prompts.suffixes)), key=lambda i: len(prompts.suffixes[i]))
    rows = [order[i : i + queries_per_row] for i in range(0, len(order), queries_per_row)]
    rank, world = rank_and_world()
    turns = -(-len(rows) // world)  # as many forward passes on every rank, as sharded weights need; a repeated row is harmless
    found: list[tuple[list[int], dict[str, np.ndarray]]] = []
    with reading(model):
        reader = PrefixReader(model, prompts.prefix, labels)
        for turn in range(rank, turns * world, world):
            row = rows[min(turn, len(rows) - 1)]
            kept = keep(reader.logits([prompts.suffixes[i] for i in row]))
            found.append((row, {name: tensor.cpu().numpy() for name, tensor in kept.items()}))
    arrays: dict[str, np.ndarray] = {}
    for share in all_gather(found):
        for row, kept in share:
            for name, part in kept.items():
                arrays.setdefault(name, np.empty((len(order), *part.shape[1:]), part.dtype))[row] = part
    return Answers(arrays, sorted(i for row in rows[rank::world] for i in row), reader.tokens, reader.padding_tokens)


@dataclass(frozen=True)
class Answers:
    """What was kept of N prompts' answers, in their order; `scored`, `tokens`, `padding_tokens` as in `AnswerScores`."""

    arrays: dict[str, np.ndarray]
    scored: list[int]
    tokens: int
    padding_tokens: int


@contextmanager
def reading(model: torch.nn.Module) -> Iterator[None]:
    """Within, the model is whole and without dropout; afterwards as it was."""
    was_training, bare = model.training, bare_model(model)
    model.eval()
    autocast = bare.__dict__.get("forward") if hasattr(bare, "_original_forward") else None
    if autocast is not None:  # accelerate's for mixed-precision training; every stage is scored in the weights' precision
        bare.forward = bare._original_forward
    try:
        with whole_weights(model.parameters()):
            yield
    finally:
        model.train(was_training)
        if autocast is not None:
            bare.forward = autocast


class PrefixReader:
    """Reads queries behind a prefix, which goes through the model once, when the first of them come.

    To be used within `reading` and without gradients. What is encoded stays good as long as the model's weights stay the same.

    Attributes:
        tokens, padding_tokens: what went through the model so far.
    """

    def __init__(self, model: torch.nn.Module, prefix: list[int], labels: LabelSequences) -> None:
        self.model, self.prefix, self.labels = model, prefix, labels
        self.length = virtual_tokens(model) + len(prefix)
        self.device = next(model.parameters()).device
        self.tokens = self.padding_tokens = 0
        self._cache: Any = None
        self._packs = _can_share(model)
        self._is_encoded = False

    def logits(self, suffixes: list[list[int]]) -> torch.Tensor:
        """Logits (n, R, V) of n queries, at the positions that `labels` asks for."""
        if not self._is_encoded:
            self._encode()
        if self._packs:
            self.tokens += sum(len(suffix) + self.labels.rows - 1 for suffix in suffixes)
            return _packed_logits(self.model, self._cache, self.length, suffixes, self.labels, self.device)
        batch = sequence_batch([self.prefix + suffix for suffix in suffixes], self.labels)
        read, real = batch["input_ids"].flatten(0, 1), int(batch["attention_mask"].sum())
        self.tokens += real + encoded_virtual_tokens(self.model) * len(read)
        self.padding_tokens += read.numel() - real
        return sequence_logits(self.model, {name: tensor.to(self.device) for name, tensor in batch.items()}, self.labels)

    def _encode(self) -> None:
        self._is_encoded = True
        if self._packs and self.length:
            self._cache = _encode_prefix(self.model, self.prefix, self.device)
            self._packs = self._cache is not None
            self.tokens += encoded_virtual_tokens(self.model) + len(self.prefix) if self._packs else 0
        if self.prefix and not self._packs:
            name = type(bare_model(self.model)).__name__
            logger.warning("%s: queries cannot share an encoded context, every prompt is encoded whole", name)


def _can_share(model: torch.nn.Module) -> bool:
    """Whether packed queries behind a cache mean the same as whole prompts for this model."""
    bare = bare_model(model)
    if bare.config._attn_implementation not in ("sdpa", "eager"):  # others take no mask of our own
        return False
    has_window = getattr(bare.config.get_text_config(), "sliding_window", None) is not None  # counted along the row
    return not has_window and reads_behind_a_cache(model)


def _encode_prefix(model: torch.nn.Module, prefix: list[int], device: torch.device):
    """Keys and values of virtual tokens and prefix (batch of one), or None where the model keeps no plain cache of all of it."""
    if virtual_tokens(model):
        return plain(unwrapped(model).encode(torch.tensor([prefix], dtype=torch.long, device=device)))
    return encode(model, prefix)


def _packed_logits(
    model: torch.nn.Module, cache, prefix_length: int, suffixes: list[list[int]], labels: LabelSequences, device: torch.device
) -> torch.Tensor:
    """Logits (n, R, V) behind n suffixes, and in the labels' continuations, that lie side by side in one row behind the cache."""
    packed = pack(suffixes, labels.continuations, prefix_length, device)
    bare = bare_model(model)
    mask = torch.zeros(packed.allowed.shape, dtype=bare.dtype, device=device)
    mask = mask.masked_fill(~packed.allowed, torch.finfo(bare.dtype).min)[None, None]
    output = bare(
        input_ids=packed.input_ids,
        attention_mask=mask,
        position_ids=packed.position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=packed.keep,
    )
    if cache is not None:
        cache.crop(-packed.input_ids.shape[1])
    return output.logits[0].unflatten(0, (len(suffixes), labels.rows))
