"""The properties of each trainable part, and of adapters in models and folders.

A new part is one file that creates a `Part`, one row in `adapt.PARTS`, one flag (or a value of `--adapter_type`) in
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
    """How adapters of one kind are stored in models and folders.

    Attributes:
        is_in: whether a model, in any wrapping, has one.
        left_out: context manager in which the model computes as if it had none.
        save: writes it, and the name of its base, into a folder.
        is_saved_in: whether a folder has one.
        restore: loads a folder's adapter onto its base.
        noun: the adapter's name in messages; None for one that can be merged into the weights.
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
        add: maps model, flags, tokens of the context (None if there is none) and a seed for new weights to the model in which
            only that part, and a classification head, are trainable.
        check: raises InputError if the model has no such part.
        weights: the model's own weights that are trained; None if none change (except a classification head's).
        adapter: what is added to them; None for nothing.
    """

    add: Callable[[PreTrainedModel, AdapterArguments, Sequence[int] | None, int], torch.nn.Module]
    check: Callable[[PreTrainedModel, AdapterArguments], object] = lambda model, flags: None
    weights: Callable[[PreTrainedModel, AdapterArguments], NamedWeights] | None = None
    adapter: Adapter | None = None


def train_only(model: PreTrainedModel, weights: NamedWeights) -> None:
    """Freeze all of the model except these weights and a classification head."""
    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    head = classification_head(model)
    if head is not None:
        head.requires_grad_(True)


def base_of(model: PreTrainedModel) -> dict[str, str | None]:
    """How an adapter's files name its base: folder or hub name, and the commit for a hub model."""
    return {"base_model_name_or_path": model.name_or_path, "revision": getattr(model.config, "_commit_hash", None)}
