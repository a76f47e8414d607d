"""Cartridges (Eyuboglu et al. 2025, arXiv:2506.06266): trained keys and values before every prompt, nothing else trained.

They are initialised with the keys and values of a context, so that the student starts as the model after that context. As in
prefix tuning (Li and Liang 2021, arXiv:2101.00190) every layer has its own; since no network generates them, they can be set to
those of a context. Reading them costs no pass through the layers, only attention to that many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from peft import CartridgeConfig, TaskType, initialize_kv_prefix_from_past_key_values
from transformers.cache_utils import DynamicCache

from llmft.errors import InputError
from llmft.models.distributed import weights_when_needed
from llmft.models.parts.part import Part, base_of
from llmft.models.parts.prompt_learning import PromptLearningModel, random_tokens, virtual_tokens_adapter
from llmft.models.reading.kv_cache import can_share, encode, reads_behind_a_cache
from llmft.models.reading.packing import has_windows
from llmft.models.structure import named

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.arguments.methods import AdapterArguments


class CartridgeModel(PromptLearningModel):
    """Virtual tokens are keys and values of every layer; prompts get the positions after them."""

    def inputs_behind(self, virtual: Any, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """Tokens (B, T) after a cache that holds the n virtual ones."""
        batch, count = len(input_ids), self.active_peft_config.num_virtual_tokens
        return {
            "input_ids": input_ids,
            "attention_mask": torch.cat([mask.new_ones(batch, count), mask], dim=1),
            "position_ids": count + (mask.cumsum(1) - 1).clamp(min=0),
            "past_key_values": virtual,
        }

    @classmethod
    def restore(cls, model: PreTrainedModel, folder: Path) -> Self:
        """As `PromptLearningModel.restore`, on a base that can read after keys and values."""
        check_cartridge(model, f"--model_name_or_path {folder}")
        return super().restore(model, folder)

    def virtual_cache(self) -> Any:
        """The virtual tokens themselves."""
        return self.get_prompt(1)


def _add(model: PreTrainedModel, flags: AdapterArguments, context_ids: Sequence[int] | None, seed: int) -> CartridgeModel:
    if context_ids is None:
        context_ids = random_tokens(model.get_input_embeddings().num_embeddings, flags.cartridge_tokens, seed).tolist()
    start = context_start(context_ids, flags.cartridge_tokens, flags.cartridge_frozen_tokens)
    with weights_when_needed(model, model):  # layers with a window also keep everything in a cache without windows
        cache = encode(model, start, behind=DynamicCache() if has_windows(model) else None)
    _, heads, count, width = cache.layers[0].keys.shape
    config = CartridgeConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=count,
        num_frozen_tokens=flags.cartridge_frozen_tokens,
        num_layers=len(cache.layers),
        num_attention_heads=heads,  # peft's name for the heads of keys and values; fewer than those of queries if these share
        token_dim=heads * width,
        **base_of(model),
    )
    wrapped = CartridgeModel.wrap(model, config)
    initialize_kv_prefix_from_past_key_values(wrapped, past_key_values=cache)
    return wrapped


def context_start(context_ids: Sequence[int], tokens: int, frozen: int) -> list[int]:
    """The tokens of a context whose keys and values initialise a cartridge.

    Args:
        context_ids: all its tokens, including the beginning-of-text token.
        tokens: how many to take, counted from the first; 0 for all.
        frozen: how many of them will not be trained.

    Raises:
        InputError: it has fewer, or none would be trained.
    """
    if tokens > len(context_ids):
        raise InputError(f"--cartridge_tokens {tokens}: the context has {len(context_ids)}; use at most that many, or 0 for all")
    start = list(context_ids[: tokens or None])
    if frozen >= len(start):
        raise InputError(f"--cartridge_frozen_tokens {frozen}: the cartridge has {len(start)} tokens; leave 1 or more to train")
    return start


def check_cartridge(model: PreTrainedModel, flag: str) -> None:
    """Check, on one token, that the model can read after given keys and values that have the same shape in all layers.

    Raises:
        InputError: it cannot (recurrent states, distances counted along the row); the message begins with `flag`.
    """
    able = can_share(model) if has_windows(model) else reads_behind_a_cache(model)
    with weights_when_needed(model, model):
        cache = encode(model, [0]) if able else None
    shapes = {part.shape for layer in cache.layers for part in (layer.keys, layer.values)} if cache is not None else ()
    if len(shapes) != 1:
        raise InputError(f"{flag}: {named(model)} cannot read after keys and values that replace a text; use --use_adapter")


CARTRIDGE = Part(
    _add,
    lambda model, flags: check_cartridge(model, "--use_cartridge"),
    adapter=virtual_tokens_adapter("a cartridge", "CARTRIDGE", CartridgeModel),
)
"""Initialised with the keys and values of the context's first tokens, or of random tokens if there is no context: the student
answers as if it had read them. The first token may be frozen: it is an attention sink, and training is more stable without
it."""
