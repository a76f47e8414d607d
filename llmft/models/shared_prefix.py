"""One encoding of what all prompts share, many queries behind it.

The shared prefix (a soft prompt is part of it) goes through the model once; the queries are packed side by side into rows that
continue from its keys and values. A block-diagonal mask keeps the queries apart and explicit positions give each the place it
would have alone, so scores equal those of whole prompts, without padding and without a copy of the cache for every query.
Models this is not right for (sliding windows, recurrent states, no explicit positions) read whole prompts instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from llmft.models.gather import all_gather, rank_and_world, whole_weights
from llmft.models.kv_cache import encode, plain
from llmft.models.label_scores import (
    AnswerScores,
    bare_model,
    forward_parameters,
    unwrapped,
    virtual_tokens,
)
from llmft.models.sequence_scores import LabelSequences, pack, sequence_batch, sequence_logits
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


@torch.no_grad()
def score_sequences(
    model: torch.nn.Module, prompts: TokenizedPrompts, label_sequences: Sequence[Sequence[int]], *, queries_per_row: int
) -> AnswerScores:
    """As `score_answers`, for labels of any number of tokens (L lists, in label order; see `sequence_scores.py`).

    `best_token` is that of the first position.
    """
    labels = LabelSequences.create(label_sequences)
    was_training = model.training
    model.eval()
    try:
        with whole_weights(model.parameters()):
            return _score_shares(model, prompts, labels, queries_per_row)
    finally:
        model.train(was_training)


def _score_shares(
    model: torch.nn.Module, prompts: TokenizedPrompts, labels: LabelSequences, queries_per_row: int
) -> AnswerScores:
    order = sorted(range(len(prompts.suffixes)), key=lambda i: len(prompts.suffixes[i]))
    rows = [order[i : i + queries_per_row] for i in range(0, len(order), queries_per_row)]
    rank, world = rank_and_world()
    turns = -(-len(rows) // world)  # as many forward passes on every rank, as sharded weights need; a repeated row is harmless
    mine = [rows[min(i, len(rows) - 1)] for i in range(rank, turns * world, world)]
    device = next(model.parameters()).device
    shared, cache, virtual = _can_share(model), None, virtual_tokens(model)
    prefix_length = virtual + len(prompts.prefix)
    if shared and prefix_length:
        cache = _encode_prefix(model, prompts.prefix, device)
        shared = cache is not None
    if prompts.prefix and not shared:
        logger.warning(
            "%s: queries cannot share an encoded context, every prompt is encoded whole", type(bare_model(model)).__name__
        )
    tokens = prefix_length if cache is not None else 0
    padding = 0
    found: list[tuple[list[int], np.ndarray, np.ndarray]] = []
    for row in mine:
        if shared:
            logits = _packed_logits(model, cache, prefix_length, [prompts.suffixes[i] for i in row], labels, device)
            tokens += sum(len(prompts.suffixes[i]) + labels.rows - 1 for i in row)
        else:
            batch = sequence_batch([prompts.whole(i) for i in row], labels)
            logits = sequence_logits(model, {name: tensor.to(device) for name, tensor in batch.items()}, labels)
            real = int(batch["attention_mask"].sum())
            tokens, padding = (
                tokens + real + virtual * len(batch["input_ids"].flatten(0, 1)),
                padding + batch["input_ids"].numel() - real,
            )
        found.append((row, labels.logprobs(logits).double().cpu().numpy(), logits[:, 0].argmax(-1).cpu().numpy()))
    label_logprobs = np.full((len(order), len(labels.sequences)), np.nan)
    best_token = np.full(len(order), -1)
    for share in all_gather(found):
        for row, logprobs, best in share:
            label_logprobs[row], best_token[row] = logprobs, best
    scored = sorted(i for row in rows[rank::world] for i in row)
    return AnswerScores(label_logprobs, best_token, scored, tokens, padding)


def _can_share(model: torch.nn.Module) -> bool:
    """Whether packed queries behind a cache mean the same as whole prompts for this model."""
    bare = bare_model(model)
    if bare.config._attn_implementation not in ("sdpa", "eager"):  # others take no mask of our own
        return False
    # distance is counted along the row, whatever the positions say: Falcon with ALiBi, GPT-Neo
    by_index = getattr(bare.config, "alibi", False) or "local" in getattr(bare.config, "attention_layers", ())
    return not by_index and {"position_ids", "past_key_values", "logits_to_keep"} <= forward_parameters(model)


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
