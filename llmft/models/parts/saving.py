"""Trained students on disk: what a run saves, and how to load it again.

A folder holds one of
- a whole model in transformers' format (all weights, BitFit, output layer);
- an adapter in peft's format (LoRA, IA3, soft prompt, cartridge), or parallel adapters in ours, either naming its base (if the
  base itself was a student with an adapter: `llmft.models.parts.stacked`); and, for a classifier, its head. With a head, a
  whole model is only the backbone, which AutoModel loads. `student.json` has the precision in which the base was trained, and
  the texts that end its answers, if there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft.tuners.tuners_utils import BaseTunerLayer

from llmft.errors import InputError
from llmft.models.parts import head as heads
from llmft.models.parts.adapt import ADAPTERS, adapter_in
from llmft.models.parts.part import base_of
from llmft.models.parts.stacked import MergedAdapter, lora_updates, save_stacked
from llmft.models.wrapping import bare_model
from llmft.runs.model_folder import HEAD_SETTINGS, adapter_settings, base_named_in, read_settings, write_student_settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def save_student(model: torch.nn.Module, folder: Path, stops: Sequence[str] = ()) -> None:
    """Write what was trained, loadable by `load_model`, and by plain transformers or peft if they have the format.

    Args:
        model: its weights whole (see `weights_on_rank_0`).
        folder: an empty folder, or one that does not exist yet.
        stops: texts that end its answers, besides end tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bare, head, adapter = bare_model(model), heads.classification_head(model), adapter_in(model)
    if adapter is not None:
        adapter.save(model, folder)
    else:
        (bare if head is None else bare.base_model).save_pretrained(str(folder))
    if head is not None:
        heads.save_head(head, folder)
    save_stacked(bare, folder)
    merged = getattr(bare, "merged_adapter", None)
    settings: dict[str, Any] = {"dtype": str(bare.get_input_embeddings().weight.dtype).removeprefix("torch.")}
    if stops:
        settings["stop"] = list(stops)
    gguf_file = getattr(bare, "gguf_file", None) if merged is None else merged.gguf_file
    if base_named_in(folder) is not None and gguf_file is not None:
        settings["gguf_file"] = gguf_file
    write_student_settings(settings, folder)


def restore_student(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """Load head and adapter of `folder`, if it has any, onto their base; in eval mode.

    Raises:
        InputError: the kind of adapter is not supported.
    """
    if (folder / HEAD_SETTINGS).is_file():
        heads.restore_head(model, folder)
    adapter = next((adapter for adapter in ADAPTERS if adapter.is_saved_in(folder)), None)
    if adapter is not None:
        return adapter.restore(model, folder).eval()
    file = adapter_settings(folder)
    if file is not None:
        kind = read_settings(file).get("peft_type")
        raise InputError(
            f"--model_name_or_path {folder}: {file.name}: peft's {kind} is not supported; use an adapter of layers (LoRA, IA3, "
            "...), PROMPT_TUNING or CARTRIDGE"
        )
    return model.eval()


def start_of(model: torch.nn.Module, name: str) -> PreTrainedModel:
    """A plain model to train further: LoRA and IA3 are merged into the weights.

    Args:
        name: where it was loaded from; the base of what is trained on it.

    Raises:
        InputError: it is another kind of student.
    """
    adapter = adapter_in(model)
    noun = "classifier" if heads.classification_head(model) is not None else None
    if noun is None and adapter is not None and adapter.noun:
        noun = f"model with {adapter.noun}"
    if noun:
        raise InputError(f"--model_name_or_path {name}: is a {noun}, which only eval.py accepts; train its base model instead")
    if adapter is None:
        return model
    updates, bare = lora_updates(model), bare_model(model)
    if any(isinstance(layer, BaseTunerLayer) for layer in (bare.get_output_embeddings(), bare.get_input_embeddings())):
        heads.untie(bare)  # merging into shared weights would change the other layer too
    adapter = MergedAdapter(updates, base_of(bare), getattr(bare, "gguf_file", None))
    merged = model.merge_and_unload()
    heads.record_untied(merged)
    merged.name_or_path = merged.config._name_or_path = name
    merged.merged_adapter = adapter
    return merged
