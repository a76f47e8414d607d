"""The model inside its wrappers (DDP, DeepSpeed, peft), and tensors on its device."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def forward_parameters(model: torch.nn.Module) -> set[str]:
    """Names of the arguments that the language model's `forward` takes, seen through any wrapping."""
    return set(inspect.signature(bare_model(model).forward).parameters)


def bare_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside DDP, DeepSpeed and PEFT wrappers (LoRA layers stay in it)."""
    model = unwrapped(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DDP and DeepSpeed wrappers; a PEFT wrapper stays."""
    while hasattr(model, "module"):
        model = model.module
    return model


def virtual_tokens(model: torch.nn.Module) -> int:
    """How many trained virtual tokens come before every prompt: a soft prompt's, or a cartridge's.

    A cartridge counts with its full length. It saves the encoding of a context, not the attention to it, and takes the same
    room in the window.
    """
    config = getattr(unwrapped(model), "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def encoded_virtual_tokens(model: torch.nn.Module) -> int:
    """How many of them go through the layers with a prompt, and cost as much as its tokens: none of a cartridge's."""
    return 0 if has_cartridge(model) else virtual_tokens(model)


def has_cartridge(model: torch.nn.Module) -> bool:
    """Whether prompts are read after a cartridge, which replaces the beginning of the text that they continue."""
    return virtual_tokens(model) > 0 and unwrapped(model).active_peft_config.peft_type == "CARTRIDGE"


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch, with its tensors on the device; a GPU copies them while it still computes the previous batch."""

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)

    return {name: copied(value) for name, value in batch.items()}


@lru_cache(maxsize=256)
def index_on(device: torch.device, indices: tuple[int, ...]) -> torch.Tensor:
    """A few indices as a tensor (L,) int64 on the device, created there once: each copy of a list would wait for a GPU."""
    return torch.tensor(indices, dtype=torch.int64, device=device)


def precise(values: torch.Tensor) -> torch.Tensor:
    """At least float32: sums of exponentials lose too much in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
