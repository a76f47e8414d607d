"""Answers of a frozen model, kept on disk under what they follow from: other seeds and sweeps do none of that work again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmft.cost.phases import Phase
from llmft.models.distributed import all_gather, from_rank_0, rank_and_world
from llmft.runs.content_cache import ContentCache

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from llmft.models.reading.batches import BatchSize

TARGETS_VERSION = 1
"""Part of every key; to be raised when the code changes so that the same key would give other answers."""


@dataclass
class AnswerCache:
    """The cache of one model and tokenizer.

    Attributes:
        weights, tokenizer: fingerprints (token ids say what was read; the tokenizer's says what it meant).
        dtype: in which the model computes.
        numerics: what else can change the last bits (device type, attention, queries a row).
        saved: what the answers that were found had cost when they were made (`cpu_s`, `tokens`, `flops`, `examples` added
            up, `answers` their number), and in `phases` the same for each phase that asked: a run that takes them up must not
            look as if its teacher were free.
    """

    store: ContentCache
    weights: str
    tokenizer: str
    dtype: str
    numerics: dict[str, str | int]
    saved: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, store: ContentCache, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, size: BatchSize
    ) -> AnswerCache:
        """The cache of a model as it now is; reads all its weights once."""
        from llmft.models.fingerprint import fingerprint_weights
        from llmft.models.reading.packing import NAME
        from llmft.models.wrapping import bare_model

        attention = bare_model(model).config._attn_implementation
        weight, (_, world) = next(model.parameters()), rank_and_world()
        numerics = {
            "device": weight.device.type,
            "attention": "sdpa" if attention == NAME else attention,  # which becomes that when the model first reads
            "queries": size.queries,
            "batch_tokens": size.tokens_on(weight.device.type),
            "ranks": world,
        }
        if weight.dtype.itemsize < 4:
            numerics["logits"] = "float32"  # before, they were rounded to the weights' precision
        return cls(store, fingerprint_weights(model), fingerprint_tokenizer(tokenizer), str(weight.dtype), numerics)

    def key(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the answers to a question: its own key (what is asked about which tokens), and how the model is."""
        model = {"weights": self.weights, "tokenizer": self.tokenizer, "dtype": self.dtype, "numerics": self.numerics}
        return {"version": TARGETS_VERSION, **model, **question}

    def get(
        self, question: Mapping[str, Any], compute: Callable[[], dict[str, np.ndarray]], phase: Phase
    ) -> dict[str, np.ndarray]:
        """What was kept under this question's key; else what `compute` gives, which is then kept. Its costs are on `phase`."""
        key = self.key(question)
        rank, _ = rank_and_world()
        found = from_rank_0(self.store.get(key) if rank == 0 else None)  # one rank looks: all must go the same way
        if found is not None:
            arrays, costs = found
            self._count(costs, phase.name)
            return arrays
        before, started = (phase.examples, phase.tokens, phase.flops), time.process_time()
        answers = compute()
        names = ("examples", "tokens", "flops")
        done = {
            name: now - then for name, now, then in zip(names, (phase.examples, phase.tokens, phase.flops), before, strict=True)
        }
        shares: list[dict[str, Any]] = all_gather({**done, "cpu_s": time.process_time() - started})
        sound = not any(np.isnan(array).any() for array in answers.values() if array.dtype.kind == "f")
        if rank == 0 and sound:  # what is none ends the run, and must not end others
            self.store.put(key, answers, {name: sum(share[name] for share in shares) for name in shares[0]})
        return answers

    def saved_but(self, paid: Collection[str]) -> dict[str, Any]:
        """What was saved in other phases than these: there, answers of an earlier session of the same run were found."""
        phases = {name: costs for name, costs in self.saved.get("phases", {}).items() if name not in paid}
        names = {name for costs in phases.values() for name in costs}
        sums = {name: sum(costs.get(name, 0) for costs in phases.values()) for name in sorted(names)}
        return {**sums, "phases": phases} if phases else {}

    def _count(self, costs: dict[str, float], phase: str) -> None:
        of_phase = self.saved.setdefault("phases", {}).setdefault(phase, {})
        for name, value in {**costs, "answers": 1}.items():
            for sums in (self.saved, of_phase):
                sums[name] = sums.get(name, 0) + value


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What identifies a tokenizer: its vocabulary."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256(repr(pairs).encode()).hexdigest()
