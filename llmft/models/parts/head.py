"""The output layer: a classification head in its place, untying it from the input embeddings, logits in float32.

The head takes the place of the language-modelling head, so that the answer position's "vocabulary" is the L labels and
everything else (padding, packed queries, wrappings) stays as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from llmft.errors import InputError
from llmft.models.distributed import cut_up, whole_weights
from llmft.models.parts.gradients import adds_up_in_place
from llmft.models.reading.batches import at_positions
from llmft.models.structure import named
from llmft.models.wrapping import bare_model
from llmft.runs.model_folder import HEAD_SETTINGS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WEIGHTS = "classification_head.safetensors"
DROPOUTS = ("dropout", "hidden_dropout", "resid_pdrop", "resid_dropout")
"""Names under which a config has the dropout between layers; families without any have none in the head either."""
PIECE = 2**14
"""So many rows of a half-precision output layer's weights are held in float32 at once."""
LOGITS = 2**26
"""Logits that are made at once, at most (256 MiB): those of 256 positions, as many queries as a batch has by
default, over a vocabulary of 2^18."""
LEARNT = 2**24
"""The same of a frozen output layer in training, where a gradient and copies of each piece are held beside it."""

Projection = Callable[[torch.Tensor], torch.Tensor]
"""Hidden states (..., H) -> logits (..., V)."""


class ClassificationHead(torch.nn.Module):
    """Logits (..., L) from hidden states (..., H).

    Args:
        kind: `linear` (no bias), or `fully-connected`: dense H x H, ReLU, dropout, output H x L, with biases.
        width: H.
        label_names: L names, in label order.
        dropout: before the output, `fully-connected` only.
    """

    def __init__(self, kind: str, width: int, label_names: Sequence[str], dropout: float) -> None:
        super().__init__()
        self.kind, self.label_names = kind, list(label_names)
        full = kind == "fully-connected"
        self.dense = torch.nn.Linear(width, width) if full else None
        self.dropout = torch.nn.Dropout(dropout)
        self.output = torch.nn.Linear(width, len(self.label_names), bias=full)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the labels."""
        if self.dense is not None:
            hidden = self.dropout(self.dense(hidden).relu())
        return self.output(hidden)


def put_head(model: PreTrainedModel, kind: str, label_names: Sequence[str], seed: int) -> None:
    """Replace the language-modelling head by a new classification head.

    Its weights are normal with the standard deviation that the model's config gives for new weights, biases are zero. Changes
    that a family makes to its logits after the head (Gemma 2's soft cap, Granite's scale) apply to the labels', too.

    Raises:
        InputError: the model has no output layer to replace.
    """
    config = model.config.get_text_config()
    std = getattr(config, "initializer_range", None) or getattr(config, "init_std", 0.02)
    head = _replace(model, kind, label_names)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in head.named_parameters():
        start = torch.zeros(parameter.shape) if name.endswith("bias") else torch.randn(parameter.shape, generator=generator) * std
        parameter.data.copy_(start)


def _replace(model: PreTrainedModel, kind: str, label_names: Sequence[str]) -> ClassificationHead:
    config, old = model.config.get_text_config(), model.get_output_embeddings()
    if not isinstance(old, torch.nn.Linear):
        raise InputError(f"--method vanilla: {named(model)} has no linear output layer that a head could replace; use pbft")
    dropout = next((getattr(config, name) for name in DROPOUTS if getattr(config, name, None) is not None), 0.0)
    head = ClassificationHead(kind, old.in_features, label_names, dropout)
    model.set_output_embeddings(head.to(old.weight.device, model.dtype).train(model.training))
    _no_longer_tied(model)
    return head


def classification_head(model: torch.nn.Module) -> ClassificationHead | None:
    """The model's classification head in use, seen through any wrapping; None for a language model."""
    head = bare_model(model).get_output_embeddings()
    if hasattr(head, "modules_to_save"):  # peft trains a copy
        head = head.modules_to_save[head.active_adapter]
    return head if isinstance(head, ClassificationHead) else None


def output_name(model: PreTrainedModel) -> str:
    """The output layer's name in the model (usually `lm_head`)."""
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def logits_width(model: torch.nn.Module) -> int:
    """The number of logits of the model's output layer, whose weights may be partitioned by DeepSpeed ZeRO-3."""
    weight = bare_model(model).get_output_embeddings().weight
    return (getattr(weight, "ds_shape", None) or weight.shape)[0]


def cut_logits(model: torch.nn.Module, width: int) -> None:
    """Make the model return only its first `width` logits. This changes the vocabulary in its config, and thus its
    fingerprint."""
    bare = bare_model(model)
    bare.get_output_embeddings().register_forward_hook(lambda _module, _inputs, logits: logits[..., :width])
    bare.config.get_text_config().vocab_size = width


def untie(model: PreTrainedModel) -> None:
    """Give the language-modelling head its own weights, initially equal; recorded in the model's config. Both layers may be
    peft's layers around the model's own."""
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    head, embeddings = (getattr(layer, "base_layer", layer) for layer in ends)
    if getattr(head, "weight", None) is not embeddings.weight:
        return
    with whole_weights(embeddings.parameters()):
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
    _no_longer_tied(model)


def record_untied(model: PreTrainedModel) -> None:
    """Record in the config that the output layer has its own weights, if it has: they may come from an adapter."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(head, "weight", None) is not embeddings.weight:
        _no_longer_tied(model)


def _no_longer_tied(model: PreTrainedModel) -> None:
    configs: list[PreTrainedConfig] = [model.config, model.config.get_text_config()]
    for config in configs:
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


@contextmanager
def precise_output(model: torch.nn.Module) -> Iterator[None]:
    """Context manager: an output layer in half precision gives its logits in float32.

    Rounded to bfloat16, logits of 16 to 32 are 1/8 apart, and labels that are closer than that tie. Layers in float32 do not
    change; nor do layers that are not torch's own, or that something else (accelerate, on several devices) has changed.
    """
    output = bare_model(model).get_output_embeddings()
    linear = [layer for layer in output.modules() if type(layer) is torch.nn.Linear]  # usually itself
    half = [layer for layer in linear if layer.weight.dtype in (torch.float16, torch.bfloat16)]
    with ExitStack() as stack:
        for layer in half:
            if "forward" not in vars(layer) or adds_up_in_place(layer):
                stack.enter_context(forward_of(layer, MethodType(_precise_linear, layer)))
        yield


@contextmanager
def forward_of(layer: torch.nn.Module, forward: Projection) -> Iterator[None]:
    """Context manager: the layer computes with `forward`."""
    before = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def positions_at_once(model: torch.nn.Module, *, learnt: bool = False) -> int:
    """The maximum number of positions whose logits are computed at once. All, if ZeRO-3 has partitioned the weights: ranks must
    run the same modules, and only some have a large batch.

    Args:
        learnt: whether the output layer is frozen and something before it is trained.
    """
    if cut_up(model):
        return sys.maxsize
    return max(1, (min(LEARNT, LOGITS) if learnt else LOGITS) // bare_model(model).config.get_text_config().vocab_size)


def project_in_pieces(
    model: torch.nn.Module,
    batch: dict[str, Any],
    run: Callable[[], torch.Tensor],
    look: Callable[[Projection, torch.Tensor, slice], None],
    at_once: int,
) -> bool:
    """Run a model on a batch whose logits are read at more positions than are computed at once.

    Args:
        batch: as for `answer_logits`.
        run: runs the model; returns its logits, in this case of only one position.
        look: is called with the positions piece by piece: what makes logits, hidden states (p, H), and their indices.
        at_once: number of positions in a piece.

    Returns:
        Whether those are the model's logits; False if it changes them after its output layer in a way that `_changed` does not
        know.
    """
    bare = bare_model(model)
    output, ends = bare.get_output_embeddings(), []
    plain = output.forward

    def project(hidden: torch.Tensor) -> torch.Tensor:
        return _changed(bare, plain(hidden))

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        hidden = at_positions(batch, hidden)
        for start in range(0, len(hidden), at_once):
            part = slice(start, start + at_once)
            look(project, hidden[part], part)
        ends.append(plain(hidden[None, :1]))
        return ends[0].clone()

    with forward_of(output, forward):
        end = run()
    return torch.equal(end, _changed(bare, ends[0]).to(end.dtype))


def _changed(bare: PreTrainedModel, logits: torch.Tensor) -> torch.Tensor:
    """An output layer's logits as the families return them that scale (Granite, Cohere) or cap them (Gemma 2)."""
    config = bare.config.get_text_config()
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    if getattr(bare, "logit_scale", None):
        logits = logits * bare.logit_scale
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def _precise_linear(layer: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """(..., H) -> (..., V) float32."""
    hidden, logits = hidden.float(), hidden.new_empty(*hidden.shape[:-1], layer.out_features, dtype=torch.float32)
    for start in range(0, layer.out_features, PIECE):
        rows = slice(start, start + PIECE)
        bias = None if layer.bias is None else layer.bias[rows].float()
        logits[..., rows] = F.linear(hidden, layer.weight[rows].float(), bias)
    return logits


def save_head(head: ClassificationHead, folder: Path) -> None:
    """Write the head's weights and settings."""
    save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, folder / WEIGHTS)
    (folder / HEAD_SETTINGS).write_text(json.dumps({"type": head.kind, "label_names": head.label_names}, indent=2) + "\n")


def restore_head(model: PreTrainedModel, folder: Path) -> None:
    """Load the head that `save_head` wrote into the model."""
    settings = json.loads((folder / HEAD_SETTINGS).read_text())
    _replace(model, settings["type"], settings["label_names"]).load_state_dict(load_file(folder / WEIGHTS))
