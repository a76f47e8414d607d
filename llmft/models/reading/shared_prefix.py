"""Reading and writing answers after a prefix that all prompts share, by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmft.errors import InputError
from llmft.models.reading.batches import BatchSize, Result
from llmft.models.reading.continuations import Continued
from llmft.models.reading.generation import Generation, Written
from llmft.models.reading.reader import Keep, PrefixReader, ProcessorOf, reading
from llmft.runs.ranks import all_gather, rank_and_world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmft.prompts.tokens import TokenizedPrompts

LARGE = 2**20
"""What is kept of a batch goes to the CPU immediately if it has this many numbers; smaller results stay on the device until the
end, which saves waiting for every batch."""


@dataclass(frozen=True)
class Kept:
    """What was kept of the logits of N prompts.

    Attributes:
        arrays: (P, ...) each, the prompts' positions in order.
        scored: indices of the prompts that this rank read; all ranks together read each.
        tokens: number of tokens that went through the model on this rank, without padding.
        padding_tokens: number of padding tokens that went through it.
    """

    arrays: dict[str, np.ndarray]
    scored: list[int]
    tokens: int
    padding_tokens: int


@contextmanager
def open_prefix(model: torch.nn.Module, prefix: list[int], size: BatchSize) -> Iterator[OpenPrefix]:
    """Context manager: everything that is asked of the model after a prefix shares one encoding of it; nothing goes through the
    model before something is asked.

    Args:
        model: a causal language model; its train/eval mode is restored afterwards.
        size: how many queries go through the model together.
    """
    with torch.no_grad(), reading(model):
        yield OpenPrefix(model, prefix, size)


class OpenPrefix:
    """A prefix after which a model reads and writes; created by `open_prefix` and only valid within it.

    With several ranks each reads or writes its share, and all get everything.
    """

    def __init__(self, model: torch.nn.Module, prefix: list[int], size: BatchSize) -> None:
        self.model, self.prefix, self.size = model, prefix, size

    def read(self, prompts: Continued, keep: Keep) -> Kept:
        """Read every prompt, and keep the result of `keep` on the logits at its positions; a (P, V) tensor is only created to
        be kept.

        Args:
            prompts: they begin with the prefix.

        Raises:
            InputError: a batch of the size that the flags give does not fit in the device's memory.
        """

        def kept_of(batch: list[int]) -> dict[str, torch.Tensor]:
            kept = self._reader.read(prompts, batch, keep)
            return {name: tensor if tensor.numel() < LARGE else tensor.cpu() for name, tensor in kept.items()}

        before = self._counted()
        # labels are read in the batches of a single process, so that their scores have the same bits
        ranks = rank_and_world()[1] if max(prompts.counts, default=1) > 1 else 1
        parts, scored = self._shared_out(self._reader_of(prompts).batches(prompts, ranks), kept_of)
        arrays: dict[str, np.ndarray] = {}
        on_host = [(batch, {name: tensor.cpu().numpy() for name, tensor in kept.items()}) for batch, kept in parts]
        for batch, kept in chain.from_iterable(all_gather(on_host)):
            positions = prompts.positions(batch)
            for name, part in kept.items():
                arrays.setdefault(name, np.empty((prompts.offsets[-1], *part.shape[1:]), part.dtype))[positions] = part
        return Kept(arrays, scored, *self._counted(before))

    def generate(
        self,
        prompts: TokenizedPrompts,
        generation: Generation,
        tokenizer: PreTrainedTokenizerBase,
        processor: ProcessorOf | None = None,
    ) -> Written:
        """Let the model write an answer after every prompt.

        Args:
            prompts: they begin with the prefix.
            tokenizer: the model's, for finding texts that end answers.
            processor: changes the logits of each token before it is chosen; None for none.

        Raises:
            InputError: a batch of the size that the flags give does not fit in the device's memory.
        """
        before = self._counted()
        batches = self._reader_of(prompts).batches_to_write(prompts, generation, rank_and_world()[1])
        parts, scored = self._shared_out(
            batches, lambda batch: self._reader.write(prompts, batch, generation, tokenizer, processor)
        )
        ids: list[list[int]] = [[] for _ in prompts.suffixes]
        for batch, answers in chain.from_iterable(all_gather(parts)):
            for i, answer in zip(batch, answers, strict=True):
                ids[i] = answer
        return Written(ids, scored, *self._counted(before))

    def _reader_of(self, prompts: Continued | TokenizedPrompts) -> PrefixReader:
        if prompts.prefix != self.prefix:
            raise ValueError("the prompts begin with another prefix")
        return self._reader

    @cached_property
    def _reader(self) -> PrefixReader:
        try:
            return PrefixReader(self.model, self.prefix, self.size)
        except torch.OutOfMemoryError as error:
            tokens = self.size.tokens_on(next(self.model.parameters()).device.type)
            raise InputError(
                f"--max_batch_tokens {tokens}: the context's {len(self.prefix)} tokens do not fit in memory, that many at a "
                "time; lower it, or use a smaller model"
            ) from error

    def _counted(self, before: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """Tokens and padding that have gone through the model since; those of the prefix count with the first request."""
        reader = vars(self).get("_reader")
        return (reader.tokens - before[0], reader.padding_tokens - before[1]) if reader is not None else before

    def _shared_out(
        self, batches: list[list[int]], do: Callable[[list[int]], Result]
    ) -> tuple[list[tuple[list[int], Result]], list[int]]:
        """The results of this rank's share of the batches, one each, and the indices of the prompts in it."""
        rank, world = rank_and_world()
        passes = -(-len(batches) // world)  # the same on every rank, as sharded weights require; repeating a batch is harmless
        share = [batches[min(place, len(batches) - 1)] for place in range(rank, passes * world, world)]
        parts = self.size.each(share, do, self._reader.device, halve=not self.size.tokens and world == 1)
        return parts, sorted(chain.from_iterable(batches[rank::world]))
