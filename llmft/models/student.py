"""Trained students on disk: what a run saves, and how it is put together again.

A folder holds one of
- a whole model in transformers' format (all weights, BitFit, output layer);
- an adapter in peft's format (LoRA, IA3, soft prompt, cartridge), or parallel adapters in ours, either naming its base;
and, for a classifier, its head. With a head, a whole model is the backbone alone, which AutoModel loads.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.models import head as heads
from llmft.models import parallel
from llmft.models.adapt import base_of
from llmft.models.base import HEAD_SETTINGS, PARALLEL_SETTINGS, PEFT_SETTINGS
from llmft.models.label_scores import bare_model, has_cartridge, unwrapped

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def save_student(model: torch.nn.Module, folder: Path) -> None:
    """Write what was trained, loadable by `load_model`, and by transformers or peft alone where they have the format.

    Args:
        model: its weights whole (see `weights_on_rank_0`).
        folder: an empty folder, or none yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bare, head = bare_model(model), heads.classification_head(model)
    if hasattr(unwrapped(model), "peft_config"):
        # the embeddings are the base's own; to learn that peft would else look for the base on the hub
        unwrapped(model).save_pretrained(str(folder), save_embedding_layers=False)
    elif parallel.parallel_modules(bare):
        parallel.save_parallel(bare, folder, base_of(bare))
    else:
        (bare if head is None else bare.base_model).save_pretrained(str(folder))
    if head is not None:
        heads.save_head(head, folder)


def restore_student(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """Put head and adapter of `folder`, if it has any, on their base; in eval mode.

    Raises:
        InputError: the adapter is of a kind that cannot be scored here.
    """
    if (folder / HEAD_SETTINGS).is_file():
        heads.restore_head(model, folder)
    if (folder / PARALLEL_SETTINGS).is_file():
        parallel.restore_parallel(model, folder)
    if (folder / PEFT_SETTINGS).is_file():
        return _restore_peft(model, folder).eval()
    return model.eval()


def _restore_peft(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    from peft import PeftConfig, PeftModel, PeftType

    from llmft.models.cartridge import CartridgeModel, check_cartridge
    from llmft.models.soft_prompt import SoftPromptModel

    config = PeftConfig.from_pretrained(str(folder))
    if config.peft_type == PeftType.PROMPT_TUNING:
        return SoftPromptModel.restore(model, folder)
    if config.peft_type == PeftType.CARTRIDGE:
        check_cartridge(model, f"--model_name_or_path {folder}")
        return CartridgeModel.restore(model, folder)
    if config.is_prompt_learning:
        raise InputError(
            f"--model_name_or_path {folder}: peft's {config.peft_type.value} is not supported, PROMPT_TUNING and CARTRIDGE are"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # they would stay at their start
        return PeftModel.from_pretrained(model, str(folder))


def start_of(model: torch.nn.Module, name: str) -> PreTrainedModel:
    """A plain model to train on from: LoRA and IA3 are merged into the weights.

    Args:
        name: where it was loaded from: the base of what is trained on it.

    Raises:
        InputError: it is a student of another kind.
    """
    kind = None
    if heads.classification_head(model) is not None:
        kind = "classifier"
    elif parallel.parallel_modules(model):
        kind = "model with parallel adapters"
    elif hasattr(model, "peft_config") and model.active_peft_config.is_prompt_learning:
        kind = f"model with a {'cartridge' if has_cartridge(model) else 'soft prompt'}"
    if kind:
        raise InputError(f"--model_name_or_path {name}: is a {kind}, which only eval.py takes; train from what it was made from")
    if not hasattr(model, "peft_config"):
        return model
    merged = model.merge_and_unload()
    merged.name_or_path = merged.config._name_or_path = name
    return merged
