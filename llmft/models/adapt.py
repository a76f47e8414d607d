"""Which weights are trained: all of them, or an adapter of peft's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TrainableCount:
    """How many weights are trained, of how many."""

    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trained share, 0 to 1."""
        return self.trainable / self.total


def adapt(model: PreTrainedModel, adapter_type: str | None, *, dim: int, alpha: int, dropout: float) -> torch.nn.Module:
    """The model with the trainable part chosen.

    Args:
        adapter_type: None trains every weight; `lora` freezes them and puts low-rank updates beside every linear layer but
            the head (Hu et al. 2021, arXiv:2106.09685), scaled by alpha / dim.
        dim: rank of the updates.
        alpha: their scale's numerator.
        dropout: on the updates' input.
    """
    if adapter_type is None:
        model.requires_grad_(True)
        return model
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=dim, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")
    return get_peft_model(model, config)


def count_trainable(model: torch.nn.Module) -> TrainableCount:
    """Trained and total weights; those that ZeRO-3 has cut up count whole."""
    sizes = [(getattr(p, "ds_numel", None) or p.numel(), p.requires_grad) for p in model.parameters()]
    return TrainableCount(sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes))
