"""Cartridges (Eyuboglu et al. 2025, arXiv:2506.06266): trained keys and values in front of every prompt, nothing else trained.

They start as the keys and values of a context, so that the student starts as the model behind that context. As in prefix
tuning (Li and Liang 2021, arXiv:2101.00190) every layer has its own; as there is no network that makes them, a context can be
put in as it is. Reading them costs no pass through the layers, but attention to as many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import CartridgeConfig, TaskType, initialize_kv_prefix_from_past_key_values

from llmft.errors import InputError
from llmft.models.distributed import weights_when_needed
from llmft.models.parts.prompt_learning import PromptLearningModel
from llmft.models.reading.kv_cache import encode, reads_behind_a_cache
from llmft.models.structure import named

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CartridgeModel(PromptLearningModel):
    """Virtual tokens are keys and values of every layer; prompts get the positions behind them."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The base model's output on (B, T) tokens behind a cache that holds the n virtual ones.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 on padding; None for no padding.
            position_ids: not read: positions follow from the mask and the virtual tokens.
            kwargs: passed on.
        """
        batch, count = len(input_ids), self.active_peft_config.num_virtual_tokens
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.base_model(
            input_ids=input_ids,
            attention_mask=torch.cat([mask.new_ones(batch, count), mask], dim=1),
            position_ids=count + (mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=self.get_prompt(batch),
            **kwargs,
        )

    def virtual_cache(self) -> Any:
        """The virtual tokens as they are."""
        return self.get_prompt(1)


def context_start(context_ids: Sequence[int], tokens: int, frozen: int) -> list[int]:
    """The tokens of a context whose keys and values a cartridge starts as.

    Args:
        context_ids: all its tokens, the beginning-of-text token included.
        tokens: how many from the first on; 0 for all.
        frozen: how many of them will not be trained.

    Raises:
        InputError: it has not as many, or none would be trained.
    """
    if tokens > len(context_ids):
        raise InputError(f"--cartridge_tokens {tokens}: the context has {len(context_ids)}; ask for no more, or 0 for all")
    start = list(context_ids[: tokens or None])
    if frozen >= len(start):
        raise InputError(f"--cartridge_frozen_tokens {frozen}: the cartridge has {len(start)} tokens; leave 1 or more to train")
    return start


def add_cartridge(model: PreTrainedModel, tokens: Sequence[int], frozen: int, base: dict[str, Any]) -> CartridgeModel:
    """The model with a cartridge to train that starts as keys and values of n `tokens`: it answers as if it had read them.

    Args:
        tokens: the n tokens.
        frozen: how many of them, from the first on, are not trained. The first is an attention sink, which training is
            steadier without.
        base: `base_model_name_or_path` and `revision`, for the saved adapter.

    Raises:
        InputError: as `check_cartridge`.
    """
    check_cartridge(model, "--use_cartridge")
    with weights_when_needed(model, model):
        cache = encode(model, tokens)
    _, heads, count, width = cache.layers[0].keys.shape
    config = CartridgeConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=count,
        num_frozen_tokens=frozen,
        num_layers=len(cache.layers),
        num_attention_heads=heads,  # of keys and values: peft's name for them; fewer than those of queries where these share
        token_dim=heads * width,
        **base,
    )
    wrapped = CartridgeModel.wrap(model, config)
    initialize_kv_prefix_from_past_key_values(wrapped, past_key_values=cache)
    return wrapped


def check_cartridge(model: PreTrainedModel, flag: str) -> None:
    """Check, on one token, that the model reads behind keys and values that stand for any text, in one shape for all layers.

    Raises:
        InputError: it does not (sliding windows, recurrent states, distances counted along the row); begins with `flag`.
    """
    with weights_when_needed(model, model):
        cache = encode(model, [0]) if reads_behind_a_cache(model) else None
    shapes = {part.shape for layer in cache.layers for part in (layer.keys, layer.values)} if cache is not None else ()
    if len(shapes) != 1:
        raise InputError(
            f"{flag}: {named(model)} cannot read behind keys and values that stand for any text; use --use_soft_prompt"
        )
