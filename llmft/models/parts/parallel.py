"""Parallel adapters (He et al. 2022, arXiv:2110.04366, section 3 and Table 1): a small network parallel to attention or
feed-forward.

    block(x)  becomes  block(x) + scale * up(relu(down(x)))

x is the block's input, after the layer norm that feeds it. `up` starts at zero, so training starts from the unchanged model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from llmft.models.parts.part import Adapter, Part, base_of, train_only
from llmft.models.structure import dense_layers, layers, sizes
from llmft.models.wrapping import bare_model
from llmft.runs.model_folder import PARALLEL_SETTINGS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.arguments.methods import AdapterArguments

WEIGHTS = "parallel_adapter.safetensors"
BLOCKS = {"parallel": ("attention", "feed_forward"), "parallel-attn": ("attention",), "parallel-fc": ("feed_forward",)}
"""Kind of adapter -> the blocks that get one."""


class ParallelAdapter(torch.nn.Module):
    """down (H x dim), ReLU, up (dim x H), times a learnt scale that starts at 1; float32 whatever the model's weights are.

    It is hooked to the linear layer that reads the block's input and to the one that makes its output, since OPT's feed-forward
    is not a module of its own.
    """

    def __init__(self, width: int, dim: int, out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Linear(width, dim), torch.nn.Linear(dim, out)
        self.scale = torch.nn.Parameter(torch.ones(1))
        torch.nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(start)
        self.on = True
        """Whether the hooks are active."""
        self._input: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is added to the block's output, from its input (..., H)."""
        return self.up(self.down(hidden).relu()) * self.scale

    def read(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Hook before the block's first linear layer."""
        self._input = inputs[0] if self.on else None

    def add(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Hook after its last one."""
        if not self.on:
            return output
        hidden, self._input = self._input, None
        return output + self(hidden.to(self.down.weight.dtype)).to(output.dtype)


def _put(model: PreTrainedModel, kind: str, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for paths in layers(model):
        layer = model.get_submodule(paths.path)
        for block in BLOCKS[kind]:
            first, last = (layer.get_submodule(path) for path in getattr(paths, block))
            adapter = ParallelAdapter(sizes(first)[0], dim, sizes(last)[1], generator).to(last.weight.device)
            layer.add_module(f"parallel_{block}", adapter)
            first.register_forward_pre_hook(adapter.read)  # bound methods: a deep copy of the model hooks its own adapters
            last.register_forward_hook(adapter.add)
    model.parallel_adapter = {"adapter_type": kind, "adapter_dim": dim}


def parallel_modules(model: torch.nn.Module) -> dict[str, ParallelAdapter]:
    """The model's parallel adapters by name; none in most models."""
    modules = bare_model(model).named_modules()
    return {name: module for name, module in modules if isinstance(module, ParallelAdapter)}


@contextmanager
def _left_out(model: torch.nn.Module) -> Iterator[None]:
    adapters = parallel_modules(model).values()
    for adapter in adapters:
        adapter.on = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.on = True


def _save(model: torch.nn.Module, folder: Path) -> None:
    bare, adapters = bare_model(model), parallel_modules(model)
    weights = {f"{name}.{key}": tensor for name, module in adapters.items() for key, tensor in module.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    (folder / PARALLEL_SETTINGS).write_text(json.dumps({**base_of(bare), **bare.parallel_adapter}, indent=2) + "\n")


def _restore(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    settings = json.loads((folder / PARALLEL_SETTINGS).read_text())
    _put(model, settings["adapter_type"], settings["adapter_dim"], seed=0)
    weights = load_file(folder / WEIGHTS)
    for name, module in parallel_modules(model).items():
        module.load_state_dict({key.removeprefix(f"{name}."): t for key, t in weights.items() if key.startswith(f"{name}.")})
    return model


def _add(model: PreTrainedModel, flags: AdapterArguments, _: Any, seed: int) -> PreTrainedModel:
    train_only(model, {})
    _put(model, flags.adapter_type, flags.adapter_dim, seed)
    return model


PARALLEL = Part(
    _add,
    lambda model, flags: dense_layers(model),
    adapter=Adapter(
        is_in=lambda model: bool(parallel_modules(model)),
        left_out=_left_out,
        save=_save,
        is_saved_in=lambda folder: (folder / PARALLEL_SETTINGS).is_file(),
        restore=_restore,
        noun="parallel adapters",
    ),
)
"""`--adapter_type` says which blocks get one; the seed determines their weights."""
