"""Trained students on disk: what a run saves, and how it is put together again.

A folder holds one of
- a whole model in transformers' format (all weights, BitFit, output layer);
- an adapter in peft's format (LoRA, IA3, soft prompt, cartridge), or parallel adapters in ours, either naming its base
  (`llmft.models.parts.stacked`: where the base was an adapter's student itself);
and, for a classifier, its head. With a head, a whole model is the backbone alone, which AutoModel loads. `student.json` has the
precision that the base was trained in.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.models.parts import head as heads
from llmft.models.parts import parallel
from llmft.models.parts.adapt import base_of
from llmft.models.parts.stacked import MergedAdapter, lora_updates, save_stacked
from llmft.models.wrapping import bare_model, has_cartridge, unwrapped
from llmft.runs.model_folder import HEAD_SETTINGS, PARALLEL_SETTINGS, PEFT_SETTINGS, STUDENT_SETTINGS, base_named_in

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
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
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty form; the run's card takes its place
    elif parallel.parallel_modules(bare):
        parallel.save_parallel(bare, folder, base_of(bare))
    else:
        (bare if head is None else bare.base_model).save_pretrained(str(folder))
    if head is not None:
        heads.save_head(head, folder)
    save_stacked(bare, folder)
    merged = getattr(bare, "merged_adapter", None)
    settings = {"dtype": str(bare.get_input_embeddings().weight.dtype).removeprefix("torch.")}
    gguf_file = getattr(bare, "gguf_file", None) if merged is None else merged.gguf_file
    if base_named_in(folder) is not None and gguf_file is not None:
        settings["gguf_file"] = gguf_file
    (folder / STUDENT_SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


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

    from llmft.models.parts.cartridge import CartridgeModel, check_cartridge
    from llmft.models.parts.soft_prompt import SoftPromptModel

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
    _fit_vocabulary(model, folder, config)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # they would stay at their start
        return PeftModel.from_pretrained(model, str(folder))


def _fit_vocabulary(model: PreTrainedModel, folder: Path, config: PeftConfig) -> None:
    """Give the base as many embeddings as the adapter was trained with, if it brings their values.

    Raises:
        InputError: the adapter was trained on another number, and does not bring all values.
    """
    from peft.utils import load_peft_weights

    layers = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    if not hasattr(layers["output"], "weight"):  # there is none, or a classification head
        del layers["output"]
    names = {name: part for name, module in model.named_modules() for part, layer in layers.items() if module is layer}
    have = {part: getattr(layer, "num_embeddings", None) or layer.out_features for part, layer in layers.items()}
    rows, whole = set(), set()
    for key, tensor in load_peft_weights(str(folder), device="cpu").items():
        path = key.removeprefix("base_model.model.")
        part = next((part for name, part in names.items() if path.startswith(f"{name}.")), None)
        if part is not None and path.endswith("weight") and ".lora_" not in path:
            whole.add(part)
            trained = len(tensor)
        elif part == "input" and path.endswith("lora_embedding_A"):
            trained = tensor.shape[1]
        elif part == "output" and path.endswith("lora_B.weight"):
            trained = len(tensor)
        else:
            continue
        rows |= {trained} - {have[part]}
    indices = getattr(config, "trainable_token_indices", None) or []
    highest = max((i for listed in ([indices] if isinstance(indices, list) else indices.values()) for i in listed), default=-1)
    if not rows and highest < have["input"]:
        return
    different = len({layer.weight for layer in layers.values()})  # 1 where they are tied: either brings both
    if len(rows) != 1 or len(whole) < different:
        trained = max(rows, default=highest + 1)
        raise InputError(
            f"--model_name_or_path {folder}: its base has {have['input']} embeddings, and the adapter was trained with {trained} "
            "and does not bring all their values; resize the base as it was then (resize_token_embeddings), save it, and "
            f"name it in {PEFT_SETTINGS}"
        )
    model.resize_token_embeddings(rows.pop(), mean_resizing=False)
    model.resized = True


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
    from peft.tuners.tuners_utils import BaseTunerLayer

    updates, bare = lora_updates(model), bare_model(model)
    if any(isinstance(layer, BaseTunerLayer) for layer in (bare.get_output_embeddings(), bare.get_input_embeddings())):
        heads.untie(bare)  # merging into weights that both share would change the other layer too
    adapter = MergedAdapter(updates, base_of(bare), getattr(bare, "gguf_file", None))
    merged = model.merge_and_unload()
    heads.record_untied(merged)
    merged.name_or_path = merged.config._name_or_path = name
    merged.merged_adapter = adapter
    return merged
