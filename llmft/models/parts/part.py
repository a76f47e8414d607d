"""What is known of each part that can be trained, and of adapters in models and folders.

A new part is one file that makes a `Part`, one row in `adapt.PARTS`, one flag (or a value of `--adapter_type`) in
`llmft.arguments.methods`, and its name and defaults in `llmft.arguments.training_defaults`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmft.models.parts.head import classification_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.arguments.methods import AdapterArguments

NamedWeights = dict[str, torch.nn.Parameter]
"""Some of a model's weights by name."""


@dataclass(frozen=True)
class Adapter:
    """How adapters of one kind lie in models and in folders.

    Attributes:
        is_in: whether a model, in any wrapping, has one.
        left_out: context in which such a model computes as if it had none.
        save: writes it, and the base it goes with, into a folder.
        is_saved_in: whether a folder has one.
        restore: puts the one of a folder on its base.
        noun: what a model with it has, for messages; None for one that can be merged into the weights.
    """

    is_in: Callable[[torch.nn.Module], bool]
    left_out: Callable[[torch.nn.Module], AbstractContextManager[None]]
    save: Callable[[torch.nn.Module, Path], None]
    is_saved_in: Callable[[Path], bool]
    restore: Callable[[PreTrainedModel, Path], torch.nn.Module]
    noun: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of a model that can be trained.

    Attributes:
        add: from model, flags, tokens of the context (None where there is none) and a seed of new weights, the model in which
            that part, and a classification head, are to be trained and nothing else.
        check: raises InputError where the model has no such part.
        weights: which weights of the model's own are trained; None where all stay as they are (a classification head's aside).
        adapter: what is put beside them; None for none.
    """

    add: Callable[[PreTrainedModel, AdapterArguments, Sequence[int] | None, int], torch.nn.Module]
    check: Callable[[PreTrainedModel, AdapterArguments], object] = lambda model, flags: None
    weights: Callable[[PreTrainedModel, AdapterArguments], NamedWeights] | None = None
    adapter: Adapter | None = None


def train_only(model: PreTrainedModel, weights: NamedWeights) -> None:
    """Freeze all of the model but these weights and a classification head."""
    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    head = classification_head(model)
    if head is not None:
        head.requires_grad_(True)


def base_of(model: PreTrainedModel) -> dict[str, str | None]:
    """What an adapter's files name its base by: folder or hub name, and the commit for a hub model."""
    return {"base_model_name_or_path": model.name_or_path, "revision": getattr(model.config, "_commit_hash", None)}
