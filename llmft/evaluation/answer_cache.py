"""Answers of a frozen model, cached on disk under everything they depend on, so that other seeds and sweeps need not compute
them again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmft.cost.phases import Phase, PhaseKey
from llmft.runs.content_cache import ContentCache
from llmft.runs.ranks import all_gather, from_rank_0, rank_and_world

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from llmft.models.reading.batches import BatchSize

Saved = dict[PhaseKey, dict[str, float]]
"""Phase -> what its cached answers cost when they were computed: the sums of `cpu_s`, `tokens`, `flops` and `examples`, and
`answers`, their number."""
TARGETS_VERSION = 1
"""Part of every key; raise it when a change of the code makes the same key give other answers."""


@dataclass
class AnswerCache:
    """The cache of one model and tokenizer.

    Attributes:
        weights, tokenizer: fingerprints (token ids say what was read; the tokenizer's fingerprint says what they meant).
        dtype: the precision in which the model computes.
        numerics: what else can change the last bits (device type, attention, queries per row).
        saved: of each phase that asked. A run that uses such answers must not look as if its teacher were free.
    """

    store: ContentCache
    weights: str
    tokenizer: str
    dtype: str
    numerics: dict[str, str | int]
    saved: Saved = field(default_factory=dict)

    @classmethod
    def create(
        cls, store: ContentCache, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, size: BatchSize
    ) -> AnswerCache:
        """The cache of a model in its current state; reads all its weights once."""
        import torch

        from llmft.models.fingerprint import fingerprint_weights
        from llmft.models.reading.packing import NAME
        from llmft.models.reading.reader import agreement_of
        from llmft.models.wrapping import bare_model

        bare = bare_model(model)
        attention, before = bare.config._attn_implementation, "sdpa" if bare._supports_sdpa else "eager"
        weight, (_, world) = next(model.parameters()), rank_and_world()
        numerics = {
            "device": weight.device.type,
            "attention": before if attention == NAME else attention,  # which it becomes when the model first reads
            "queries": size.queries,
            "batch_tokens": size.tokens_on(weight.device.type),
            "ranks": world,
        }
        if not agreement_of(model).holds:
            numerics["reading"] = "whole prompts"
        if weight.dtype.itemsize < 4:
            numerics["logits"] = "float32"  # before, they were rounded to the weights' precision
        if weight.device.type == "cuda" and weight.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
            numerics["products"] = "tf32"
        return cls(store, fingerprint_weights(model), fingerprint_tokenizer(tokenizer), str(weight.dtype), numerics)

    def key(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """All that determines the answers to a question: its own key (what is asked about which tokens) and the state of the
        model."""
        model = {"weights": self.weights, "tokenizer": self.tokenizer, "dtype": self.dtype, "numerics": self.numerics}
        return {"version": TARGETS_VERSION, **model, **question}

    def holds(self, question: Mapping[str, Any]) -> bool:
        """Whether there is a file of the answers to a question."""
        return self.store.path(self.key(question)).exists()

    def get(
        self, question: Mapping[str, Any], compute: Callable[[], dict[str, np.ndarray]], phase: Phase
    ) -> dict[str, np.ndarray]:
        """What is stored under this question's key, or else the result of `compute`, which is then stored. Its costs go to
        `phase`."""
        key = self.key(question)
        rank, _ = rank_and_world()
        kept = from_rank_0(self.store.get(key) if rank == 0 else None)  # one rank looks: all must take the same branch
        if kept is not None:
            arrays, costs = kept
            sums = self.saved.setdefault(phase.key, {})
            for name, value in {**costs, "answers": 1}.items():
                sums[name] = sums.get(name, 0) + value
            return arrays
        before, started = (phase.examples, phase.tokens, phase.flops), time.process_time()
        answers = compute()
        names = ("examples", "tokens", "flops")
        done = {
            name: now - then for name, now, then in zip(names, (phase.examples, phase.tokens, phase.flops), before, strict=True)
        }
        shares: list[dict[str, Any]] = all_gather({**done, "cpu_s": time.process_time() - started})
        sound = not any(np.isnan(array).any() for array in answers.values() if array.dtype.kind == "f")
        if rank == 0 and sound:  # NaN ends this run, and must not end others
            self.store.put(key, answers, {name: sum(share[name] for share in shares) for name in shares[0]})
        return answers

    def saved_with(self, earlier: Mapping[PhaseKey, Mapping[str, float]], paid: Collection[PhaseKey]) -> Saved:
        """What was saved in all sessions of a run: in the phases that an earlier one has `paid` for only what it saved itself,
        since the rest of their answers are its own.

        Args:
            earlier: the result of that session.
        """
        paid_before = {key: dict(earlier[key]) for key in paid if key in earlier}
        return {key: costs for key, costs in self.saved.items() if key not in paid or key in earlier} | paid_before


def as_record(saved: Saved) -> dict[str, Any]:
    """`saved_by_teacher_cache` of the record: the sums, and in `phases` those of each phase; {} if nothing was saved."""
    names = sorted({name for costs in saved.values() for name in costs})
    sums = {name: sum(costs.get(name, 0) for costs in saved.values()) for name in names}
    phases = [{"kind": kind, "stage": stage, "set": name, **costs} for (kind, stage, name), costs in saved.items()]
    return {**sums, "phases": phases} if phases else {}


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a tokenizer, by its vocabulary."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256(repr(pairs).encode()).hexdigest()
