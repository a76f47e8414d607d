"""peft's adapters in a model's layers, which can be merged into its weights.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds low-rank updates to linear layers, scaled by alpha / rank. IA3 (Liu et al. 2022,
arXiv:2205.05638) learns scales of keys, values and the inner activation of the feed-forward. peft's other kinds of adapters are
only restored.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.utils import load_peft_weights
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers.pytorch_utils import Conv1D

from llmft.errors import InputError
from llmft.models.parts.head import classification_head, output_name
from llmft.models.parts.part import Adapter, Part, base_of
from llmft.models.structure import dense_layers, layers, named, towers
from llmft.models.wrapping import unwrapped
from llmft.runs.model_folder import PEFT_SETTINGS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.arguments.methods import AdapterArguments

UNTRUE = "The following (rank|alpha)_pattern keys did not match any targeted module"
"""A warning of peft's about experts: it looks for modules of these names, but they are parameters, and the patterns hold."""


def _put(model: PreTrainedModel, config_class: type[PeftConfig], **settings: Any) -> torch.nn.Module:
    if classification_head(model) is not None:
        settings["modules_to_save"] = [output_name(model)]
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    settings |= {"fan_in_fan_out": transposed, "exclude_modules": towers(model) or None, "revision": base_of(model)["revision"]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=UNTRUE)
        return get_peft_model(model, config_class(task_type=TaskType.CAUSAL_LM, **settings))


def _add_lora(model: PreTrainedModel, flags: AdapterArguments, *_: Any) -> torch.nn.Module:
    targets: str | list[str] = flags.lora_targets
    if targets == "query-value":
        projections = [layer.projections for layer in layers(model)]
        targets = sorted({p[role] for p in projections for role in ("query", "value", "fused") if role in p})
    rank = flags.adapter_dim
    alpha = rank if flags.lora_alpha == -1 else flags.lora_alpha
    return _put(model, LoraConfig, r=rank, lora_alpha=alpha, lora_dropout=flags.lora_dropout, target_modules=targets)


def _check_lora(model: PreTrainedModel, flags: AdapterArguments) -> None:
    if flags.lora_targets == "query-value":
        layers(model)
    elif flags.lora_dropout:
        config = LoraConfig(target_modules=flags.lora_targets)
        convert_peft_config_for_transformers(config, model, None)  # as peft does before it adapts a model
        if config.target_parameters:
            raise InputError(
                f"--lora_dropout {flags.lora_dropout}: LoRA on the experts of {named(model)} has no dropout in peft; leave it out"
            )


def _add_ia3(model: PreTrainedModel, flags: AdapterArguments, *_: Any) -> torch.nn.Module:
    scaled, inner = ia3_targets(model)
    return _put(model, IA3Config, target_modules=scaled, feedforward_modules=inner)


def ia3_targets(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """The layers that IA3 scales, as paths within a decoder layer: all, and those of them that it scales at their input.

    Keys and values are scaled after their projections, the feed-forward's inner activation before its second layer. If one layer
    computes queries, keys and values, all of its output is scaled, including queries, since peft scales a layer's output as a
    whole. The layers come from the model's structure: peft's own table confuses queries with values in OPT, and with keys in
    GPT-J, GPT-Neo, Gemma and Qwen (peft 0.21).

    Raises:
        InputError: they cannot be distinguished.
    """
    scaled: set[str] = set()
    inner: set[str] = set()
    for layer in dense_layers(model):
        fused = layer.projections.get("fused")
        scaled |= {fused} if fused else {layer.projections["key"], layer.projections["value"]}
        inner.add(layer.feed_forward[1])
    return sorted(scaled | inner), sorted(inner)


def peft_config_of(model: torch.nn.Module) -> PeftConfig | None:
    """Settings of the peft adapter of a model, in any wrapping."""
    return getattr(unwrapped(model), "active_peft_config", None)


def peft_config_in(folder: Path) -> PeftConfig | None:
    """Settings of the adapter that peft saved in a folder."""
    return PeftConfig.from_pretrained(str(folder)) if (folder / PEFT_SETTINGS).is_file() else None


def save_peft(model: torch.nn.Module, folder: Path) -> None:
    """Write what peft has added to the model, in its format."""
    # the embeddings are the base's own; otherwise peft would look for the base on the hub to find that out
    unwrapped(model).save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty template; the run's card replaces it


def _left_out(model: torch.nn.Module) -> AbstractContextManager[None]:
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise ValueError("the adapter's weights have been merged into the model's, which cannot be recovered bit for bit")
    return unwrapped(model).disable_adapter()


def _restore(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    _fit_vocabulary(model, folder, peft_config_in(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # they would keep their initial values
        warnings.filterwarnings("ignore", message=UNTRUE)
        return PeftModel.from_pretrained(model, str(folder))


def _fit_vocabulary(model: PreTrainedModel, folder: Path, config: PeftConfig) -> None:
    """Give the base as many embeddings as the adapter was trained with; the adapter must have their values."""
    layers = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    if not hasattr(layers["output"], "weight"):  # there is none, or a classification head
        del layers["output"]
    names = {name: end for name, module in model.named_modules() for end, layer in layers.items() if module is layer}
    have = {end: getattr(layer, "num_embeddings", None) or layer.out_features for end, layer in layers.items()}
    rows, whole = set(), set()
    for key, tensor in load_peft_weights(str(folder), device="cpu").items():
        path = key.removeprefix("base_model.model.")
        end = next((end for name, end in names.items() if path.startswith(f"{name}.")), None)
        if end is not None and path.endswith("weight") and ".lora_" not in path:
            whole.add(end)
            trained = len(tensor)
        elif end == "input" and path.endswith("lora_embedding_A"):
            trained = tensor.shape[1]
        elif end == "output" and path.endswith("lora_B.weight"):
            trained = len(tensor)
        else:
            continue
        rows |= {trained} - {have[end]}
    indices = getattr(config, "trainable_token_indices", None) or []
    highest = max((i for listed in ([indices] if isinstance(indices, list) else indices.values()) for i in listed), default=-1)
    if not rows and highest < have["input"]:
        return
    different = len({layer.weight for layer in layers.values()})  # 1 if they are tied: either has both
    if len(rows) != 1 or len(whole) < different:
        trained = max(rows, default=highest + 1)
        raise InputError(
            f"--model_name_or_path {folder}: its base has {have['input']} embeddings, but the adapter was trained with {trained} "
            "and does not have all their values; resize the base to that (resize_token_embeddings), save it, and "
            f"name it in {PEFT_SETTINGS}"
        )
    model.resize_token_embeddings(rows.pop(), mean_resizing=False)
    model.resized = True


def _in_layers(config: PeftConfig | None) -> bool:
    return config is not None and not config.is_prompt_learning


IN_LAYERS = Adapter(
    is_in=lambda model: _in_layers(peft_config_of(model)),
    left_out=_left_out,
    save=save_peft,
    is_saved_in=lambda folder: _in_layers(peft_config_in(folder)),
    restore=_restore,
)
LORA = Part(_add_lora, _check_lora, adapter=IN_LAYERS)
"""peft draws its weights from torch's global generator. At `--lora_alpha -1` its scale is 1."""
IA3 = Part(_add_ia3, lambda model, flags: dense_layers(model), adapter=IN_LAYERS)
