"""An adapter on top of another: a folder from which plain peft reproduces the scores of training.

Training starts from a model into which the first adapter was merged, and no folder has that model. Two LoRA adapters in float32
become one, whose rank is the sum of theirs, on the base of the first:

    W + s1 B1 A1 + s2 B2 A2  =  W + [s1 B1, s2 B2] [A1; A2]

In half precision W + s1 B1 A1 has been rounded, and other kinds of adapters do not add up: then the merged model is saved next
to the adapter, in the folder `start`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file

from llmft.models.parts.head import classification_head
from llmft.models.wrapping import bare_model
from llmft.runs.model_folder import START, adapter_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PEFT_WEIGHTS = "adapter_model.safetensors"
Updates = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Module's path in the transformers model -> A (r, in) and B (out, r) of its update B A, with all scales in B; on the CPU."""


@dataclass(frozen=True)
class MergedAdapter:
    """An adapter that was merged into a model before training, kept as the model's attribute `merged_adapter`.

    Attributes:
        updates: those of a plain LoRA adapter in float32; None if the adapter is more than these.
        base: how the model it was merged into is named (`part.base_of`).
        gguf_file: that model's file, if it is one.
    """

    updates: Updates | None
    base: dict[str, str | None]
    gguf_file: str | None


def lora_updates(model: torch.nn.Module) -> Updates | None:
    """The updates of the peft model `model`, if its adapter consists only of these, and merging them is exact up to float32."""
    bare, adapter = bare_model(model), model.active_adapter
    modules = dict(bare.named_modules())
    tuned = {path: module for path, module in modules.items() if isinstance(module, BaseTunerLayer)}
    plain = all(type(m) is Linear and not m.lora_variant and not m.lora_bias[adapter] for m in tuned.values())
    more = any(isinstance(module, AuxiliaryTrainingWrapper) for module in modules.values())  # modules_to_save and the like
    whole = not any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    other = getattr(bare, "resized", False) or bare.get_input_embeddings().weight.dtype != torch.float32
    if not plain or more or other or not whole or model.active_peft_config.bias != "none":
        return None

    def kept(weight: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return (weight.detach().float() * scale).cpu()

    return {p: (kept(m.lora_A[adapter].weight), kept(m.lora_B[adapter].weight, m.scaling[adapter])) for p, m in tuned.items()}


def save_stacked(bare: PreTrainedModel, folder: Path) -> None:
    """Give the adapter that was saved in `folder` a base that others can load, too.

    Args:
        bare: the model it was trained on; nothing is done if no adapter was merged into that.
    """
    merged: MergedAdapter | None = getattr(bare, "merged_adapter", None)
    settings = adapter_settings(folder)
    if merged is None or settings is None:
        return
    config = json.loads(settings.read_text(encoding="utf-8"))
    precise = bare.get_input_embeddings().weight.dtype == torch.float32  # DeepSpeed casts the merged weights under --bf16
    if merged.updates is not None and precise and config.get("peft_type") == "LORA":
        config |= _join(merged.updates, folder / PEFT_WEIGHTS, config) | merged.base
    else:
        _save_start(bare, folder / START)
        config |= {"base_model_name_or_path": START, "revision": None}  # `name_start` says where, once the folder is in place
    settings.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def name_start(folder: Path, place: Path) -> None:
    """Write into an adapter's settings where its `start` is, if it has one.

    Args:
        folder: the adapter's folder.
        place: where that folder will be.
    """
    settings = adapter_settings(folder)
    if (folder / START).is_dir() and settings is not None:
        config = json.loads(settings.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(place.resolve() / START)
        settings.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _join(first: Updates, file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Add the first adapter's updates to the file of the second; returns its new settings."""
    weights, second = load_file(file), config["r"]
    rank = max((len(a) for a, _ in first.values()), default=0)
    scale = config["lora_alpha"] / second
    paths = {key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in weights if "lora_A" in key}
    paths |= first.keys()
    for path in paths:
        keys = [f"base_model.model.{path}.lora_{part}.weight" for part in "AB"]
        a2, b2 = (weights.get(key) for key in keys)
        a1, b1 = first.get(path, (None, None))
        if a1 is None:
            a1, b1 = a2.new_zeros(0, a2.shape[1]), b2.new_zeros(len(b2), 0)
        if a2 is None:
            a2, b2 = a1.new_zeros(second, a1.shape[1]), b1.new_zeros(len(b1), second)
        missing = rank - len(a1)
        weights[keys[0]] = torch.cat([F.pad(a1, (0, 0, 0, missing)), a2])
        weights[keys[1]] = torch.cat([F.pad(b1, (0, missing)), b2 * scale], dim=1)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, file, metadata={"format": "pt"})
    return {"r": rank + second, "lora_alpha": rank + second, "target_modules": sorted(paths)}


def _save_start(bare: PreTrainedModel, folder: Path) -> None:
    """Save the model without the trained adapter."""
    model = bare if classification_head(bare) is None else bare.base_model
    added = (".lora_", ".ia3_", ".modules_to_save.", ".parallel_")
    weights = {}
    for name, weight in model.state_dict().items():
        if not any(part in f".{name}" for part in added):
            name = re.sub(r"(\.base_layer)+\.", ".", name)  # several in a row where peft adapts two parameters of one module
            weights[name.replace(".original_module.", ".")] = weight
    model.save_pretrained(str(folder), state_dict=weights)
