"""The model's own weights: all of them, the biases, or the output layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from llmft.errors import InputError
from llmft.models.parts.gradients import add_up_in_place, hold_key_biases
from llmft.models.parts.head import untie
from llmft.models.parts.part import NamedWeights, Part, train_only
from llmft.models.structure import named, towers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.arguments.methods import AdapterArguments


def _of_text(model: PreTrainedModel) -> NamedWeights:
    beside = towers(model)
    return {name: weight for name, weight in model.named_parameters() if not re.fullmatch(beside, name)}


def _all(model: PreTrainedModel, flags: AdapterArguments) -> NamedWeights:
    frozen: set[torch.nn.Parameter] = set()
    if flags.freeze_embeddings:
        embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        frozen = {weight for module in embeddings for weight in module.parameters()}
    return {name: weight for name, weight in _of_text(model).items() if weight not in frozen}


def _biases(model: PreTrainedModel, flags: AdapterArguments) -> NamedWeights:
    # gpt-oss's experts have theirs beside the weights, as down_proj_bias; a bias that only chooses experts gets no gradient
    return {name: weight for name, weight in _of_text(model).items() if name.endswith((".bias", "_proj_bias"))}


def _check_biases(model: PreTrainedModel, flags: AdapterArguments) -> None:
    if not _biases(model, flags):
        raise InputError(f"--bitfit: {named(model)} has no bias terms; use --use_adapter, or train all weights")


def _output_layer(model: PreTrainedModel, flags: AdapterArguments) -> NamedWeights:
    chosen = set(model.get_output_embeddings().parameters())
    return {name: weight for name, weight in model.named_parameters() if weight in chosen}


def _train(weights: Callable[[PreTrainedModel, AdapterArguments], NamedWeights], *, always_untied: bool = False) -> Callable:
    def add(model: PreTrainedModel, flags: AdapterArguments, *_: Any) -> PreTrainedModel:
        if flags.untie_embeddings or always_untied:
            untie(model)
        train_only(model, weights(model, flags))
        hold_key_biases(model)
        add_up_in_place(model)
        return model

    return add


ALL_WEIGHTS = Part(_train(_all), weights=_all)
"""With `--freeze_embeddings` all except input and position embeddings, and an output layer tied to them."""
BIASES = Part(_train(_biases), _check_biases, _biases)
"""BitFit (Ben Zaken et al. 2022, arXiv:2106.10199)."""
OUTPUT_LAYER = Part(_train(_output_layer, always_untied=True), weights=_output_layer)
"""It gets its own weights if it is tied to the input embeddings."""
