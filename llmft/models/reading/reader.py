"""One encoding of what all prompts share, many queries behind it.

The shared prefix (a soft prompt is part of it) goes through the model once; the queries are packed side by side into rows that
continue from its keys and values. Attention keeps the queries apart (`packing.py`; where that cannot, a block-diagonal mask), and
explicit positions give each the place it would have alone. So scores equal those of whole prompts, without padding and without a
copy of the cache for every query. Models this is not right for (recurrent states, no explicit positions) read whole prompts
instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from llmft.models.distributed import cut_up, weights_when_needed
from llmft.models.parts.head import Projection, positions_at_once, precise_output, project_in_pieces
from llmft.models.reading.agreement import BEHIND, BESIDE, Agreement, agreement
from llmft.models.reading.attention import LostKeysError
from llmft.models.reading.batches import BatchSize, all_logits, at_positions, left_pad
from llmft.models.reading.continuations import Continued, masked_row, padded_batch
from llmft.models.reading.decoding import attends_beside, inputs_behind
from llmft.models.reading.generation import Generation, write
from llmft.models.reading.kv_cache import JoinBuffer, can_share, encode, plain_cache, read_only
from llmft.models.reading.packing import can_pack, can_share_keys, has_windows, packed_batch
from llmft.models.wrapping import bare_model, encoded_virtual_tokens, on_device, unwrapped, virtual_tokens
from llmft.runs.notes import say_note

if TYPE_CHECKING:
    from transformers import LogitsProcessor, PreTrainedTokenizerBase
    from transformers.cache_utils import DynamicCache

    from llmft.prompts.tokens import TokenizedPrompts


Keep = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
"""Logits (p, V) and which of all positions those are, (p,) int64 on their device -> what is kept of them, tensors (p, ...)."""

ProcessorOf = Callable[[Sequence[int]], "LogitsProcessor"]
"""Indices of prompts that are continued together -> what changes the logits of each token that is written behind them."""


@contextmanager
def reading(model: torch.nn.Module) -> Iterator[None]:
    """Context: the model has no dropout, computes in its weights' precision with logits in float32 or better, and has its weights
    when it needs them; then it is as it was."""
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


def agreement_of(model: torch.nn.Module) -> Agreement:
    """Whether the model's fast ways of reading give what its plain one does (`agreement`). All ranks must ask together."""
    with torch.no_grad(), reading(model):
        return _agreement(model)


def _agreement(model: torch.nn.Module) -> Agreement:
    def read(prompts: Continued, side_by_side: bool) -> torch.Tensor:
        reader = PrefixReader(model, prompts.prefix, BatchSize(2), packs=side_by_side)
        return reader.read(prompts, [0, 1], lambda logits, _: {"logits": logits})["logits"]

    shares = can_share(model)
    return agreement(model, read, (BEHIND, BESIDE) if shares else (BESIDE,) if can_pack(model) else ())


class PrefixReader:
    """Reads prompts behind a prefix, which goes through the model once.

    To be made and used within `reading` and without gradients. What is encoded stays good as long as the model's weights stay the
    same.

    Args:
        packs: whether prompts lie side by side; None for where that is right for the model, on its device.

    Attributes:
        tokens, padding_tokens: what went through the model so far.
    """

    def __init__(self, model: torch.nn.Module, prefix: list[int], size: BatchSize, *, packs: bool | None = None) -> None:
        self.model, self.bare, self.size = model, bare_model(model), size
        self.front = virtual_tokens(model) + len(prefix)
        self.device = next(model.parameters()).device
        self.tokens = self.padding_tokens = 0
        self._buffer = JoinBuffer()
        self._in_front = False  # whether attention needs the prefix's keys in front of a row's, not beside
        self._in_pieces = True
        self._cache: DynamicCache | None = None
        able = can_share(model) if packs is None else packs
        self._packs = able and (packs is not None or _agreement(model).holds)
        if self._packs and self.front:
            windowed = has_windows(model)
            virtual = plain_cache(unwrapped(model).virtual_cache(), windowed=windowed) if virtual_tokens(model) else None
            self._cache = encode(model, prefix, behind=virtual, chunk=size.tokens_on(self.device.type))
            able = self._packs = self._cache is not None
            self.tokens += encoded_virtual_tokens(model) + len(prefix) if self._packs else 0
        if prefix and not able:
            name = type(self.bare).__name__
            say_note(f"{name}: queries cannot share an encoded context, so every prompt is encoded whole", "warning")

    def batches(self, prompts: Continued, ranks: int = 1) -> list[list[int]]:
        """Indices of prompts that are to be read together, by the reader's batch size; so many ranks take turns with them."""
        rows = list(zip(prompts.texts, prompts.branches, strict=True))
        if self._packs:
            lengths = [len(text) + sum(map(len, branches)) for text, branches in rows]
            masked = not self._side_by_side(prompts)
            return self.size.batches(lengths, self.device.type, padded=False, masked=masked, ranks=ranks)
        front = len(prompts.prefix) + encoded_virtual_tokens(self.model)
        lengths = [(len(branches) or 1) * (front + len(text) + max(map(len, branches), default=0)) for text, branches in rows]
        return self.size.batches(lengths, self.device.type, padded=True, ranks=ranks)

    def read(self, prompts: Continued, rows: Sequence[int], keep: Keep) -> dict[str, torch.Tensor]:
        """What is kept of the positions of these rows, one row after the other."""
        chosen = prompts.of(rows)
        positions = on_device({"positions": torch.from_numpy(prompts.positions(rows))}, self.device)["positions"]
        if self._packs:
            batch, kept = self._read_packed(chosen, positions, keep)
            self.tokens += batch["input_ids"].numel()
            return kept
        batch = padded_batch(chosen)
        real, (texts, length) = int(batch["attention_mask"].sum()), batch["input_ids"].shape
        batch = on_device(batch, self.device)
        kept = self._kept(batch, partial(all_logits, self.model, batch), positions, keep)
        self.tokens += real + encoded_virtual_tokens(self.model) * texts
        self.padding_tokens += texts * length - real
        return kept

    def batches_to_write(self, prompts: TokenizedPrompts, generation: Generation, ranks: int = 1) -> list[list[int]]:
        """Indices of prompts that answers are written behind together, by what the model keeps keys of for each."""
        front = 0 if self.beside else self.front
        lengths = [front + len(suffix) + generation.max_new_tokens for suffix in prompts.suffixes]
        return self.size.batches(lengths, self.device.type, padded=True, written=True, ranks=ranks)

    def write(
        self,
        prompts: TokenizedPrompts,
        rows: Sequence[int],
        generation: Generation,
        tokenizer: PreTrainedTokenizerBase,
        processor: ProcessorOf | None = None,
    ) -> list[list[int]]:
        """The tokens of an answer behind each of these rows, with what ended it; `processor` as in `OpenPrefix.generate`."""
        beside, whole = self.beside, [prompts.whole(i) for i in rows]
        inputs, real = self.begin(prompts, rows)
        try:
            processors, synced = [] if processor is None else [processor(rows)], cut_up(self.bare)
            how = {"synced": synced, "leaves": beside and not synced and processor is None, "processors": processors}
            with attends_beside(self.bare) if beside else nullcontext():
                ids, tokens = write(self.bare, inputs, whole, generation, tokenizer, **how)
        except LostKeysError:
            self.puts_in_front()
            return self.write(prompts, rows, generation, tokenizer, processor)
        real += sum(max(len(answer) - 1, 0) for answer in ids)
        self.tokens += real
        self.padding_tokens += tokens - real
        return ids

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values of what is encoded."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers) if self._cache is not None else 0

    def begin(self, prompts: TokenizedPrompts, rows: Sequence[int]) -> tuple[dict[str, Any], int]:
        """Arguments of the bare model that have it read these prompts, padded on the left, and go on from them; and how many
        tokens that are no padding go through it then."""
        whole = self._cache is None
        texts = [prompts.whole(i) if whole else prompts.suffixes[i] for i in rows]
        batch = on_device(left_pad(texts), self.device)
        real = sum(map(len, texts)) + (encoded_virtual_tokens(self.model) * len(texts) if whole else 0)
        return inputs_behind(self.model, self._cache, batch, beside=self.beside), real

    def puts_in_front(self) -> None:
        """From here on attention gets the prefix's keys in front of a row's own."""
        self._in_front = True
        if has_windows(self.model):  # which are counted along the rows then
            self._cache, self._packs = None, False

    @property
    def beside(self) -> bool:
        """Whether answers are written with the prefix's keys beside the rows', not in front of each."""
        shares = self._cache is not None and not self._in_front
        return shares and can_share_keys(self.model) and can_pack(self.model)

    def _side_by_side(self, prompts: Continued) -> bool:
        """Whether attention keeps these prompts apart by itself, without a mask."""
        able = can_pack(self.model) and (not self.front or can_share_keys(self.model))
        return able and not any(prompts.branches)

    def _read_packed(
        self, prompts: Continued, positions: torch.Tensor, keep: Keep
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Prompts side by side in one row: the batch, and what is kept of it."""
        masked = not self._side_by_side(prompts)
        if masked:
            batch = masked_row(prompts, self.front, self.bare.dtype, self.device, windowed=has_windows(self.model))
        else:
            shares = self._cache is not None and not self._in_front
            batch = on_device(packed_batch(prompts.texts, self.front, shares=shares, counts=prompts.counts), self.device)
        cache = self._cache
        if cache is not None:
            last_known = len(cache.layers) == self.bare.config.get_text_config().num_hidden_layers
            beside = not (masked or self._in_front)
            readers = batch["logits_to_keep"] if beside and last_known else None
            cache = read_only(cache, None if beside else self._buffer, readers=readers)

        def logits() -> torch.Tensor:
            return self.bare(**batch, past_key_values=cache, use_cache=cache is not None).logits

        try:
            return batch, self._kept(batch, logits, positions, keep)
        except LostKeysError:  # for this model they must stand in front of the row's
            self._in_front = True
            return self._read_packed(prompts, positions, keep)

    def _kept(
        self, batch: dict[str, Any], logits: Callable[[], torch.Tensor], positions: torch.Tensor, keep: Keep
    ) -> dict[str, torch.Tensor]:
        """What is kept of a batch's logits; where those are too many, they are made and looked at in pieces.

        Args:
            logits: reads the batch; logits as the model gives them.
            positions: (P,) which of all positions the batch's are.
        """
        at_once = positions_at_once(self.bare)
        if len(positions) <= at_once or not self._in_pieces:
            return keep(at_positions(batch, logits()), positions)
        pieces: list[dict[str, torch.Tensor]] = []

        def look(project: Projection, hidden: torch.Tensor, part: slice) -> None:
            pieces.append(keep(project(hidden), positions[part]))

        if not project_in_pieces(self.bare, batch, logits, look, at_once):
            self._in_pieces = False
            return self._kept(batch, logits, positions, keep)
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
