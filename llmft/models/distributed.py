"""Weights that DeepSpeed ZeRO-3 has cut up among ranks, made whole where they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from llmft.runs.launch import this_process


def cut_up(model: torch.nn.Module) -> bool:
    """Whether DeepSpeed ZeRO-3 has cut up weights of the model: all ranks must then run the same modules, equally often."""
    return any(hasattr(weight, "ds_id") for weight in model.parameters())


@contextmanager
def whole_weights(weights: Iterable[torch.Tensor]) -> Iterator[None]:
    """Context: every rank holds the whole of each weight that DeepSpeed ZeRO-3 has cut up; other weights are left as they are."""
    parts = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield


@contextmanager
def weights_when_needed(model: torch.nn.Module, bare: torch.nn.Module) -> Iterator[None]:
    """Context: a module whose weights DeepSpeed ZeRO-3 has cut up holds all of them only while it computes, so no rank ever holds
    the whole model. All ranks must run the same modules. What DeepSpeed's engine has gathered is left to it.

    Args:
        bare: the part of `model` whose modules use their weights only in their own `forward`. The few other weights (soft
            prompts) are whole throughout, and so are those in lists and dicts (IA3).
    """
    if not cut_up(model):
        yield
        return
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    holders = torch.nn.ParameterList | torch.nn.ParameterDict
    modules = [module for module in bare.modules() if not isinstance(module, holders)]
    needed = {weight for module in modules for weight in module.parameters(recurse=False)}
    under_way: dict[torch.nn.Module, list[Any]] = {module: [] for module in modules}

    def gather(module: torch.nn.Module, _inputs: Any) -> None:
        weights = module.parameters(recurse=False)
        absent = [weight for weight in weights if getattr(weight, "ds_status", None) == ZeroParamStatus.NOT_AVAILABLE]
        gathered = deepspeed.zero.GatheredParameters(absent, enabled=bool(absent))
        gathered.__enter__()
        under_way[module].append(gathered)

    def let_go(module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        under_way[module].pop().__exit__(None, None, None)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(gather).remove)
            stack.callback(module.register_forward_hook(let_go, always_call=True).remove)  # also where memory runs out
        stack.enter_context(whole_weights(weight for weight in model.parameters() if weight not in needed))
        yield


def weights_outside(model: torch.nn.Module, bare: torch.nn.Module) -> list[torch.Tensor]:
    """The weights of `model` outside its part `bare`; in a transformers model, its virtual tokens."""
    inside = set(bare.parameters())
    return [weight for weight in model.parameters() if weight not in inside]


@contextmanager
def weights_on_rank_0(model: torch.nn.Module, bare: torch.nn.Module) -> Iterator[None]:
    """Context: rank 0 holds all weights of the model, to save them; those that DeepSpeed ZeRO-3 has cut up are on the CPU.
    All ranks gather them, one weight at a time.

    Args:
        bare: the part of `model` whose weights are saved as they are. The few other weights (virtual tokens, which peft puts
            together before it saves them) are whole on all ranks.
    """
    whole: list[tuple[torch.Tensor, torch.Tensor]] = []
    for weight in bare.parameters():
        if hasattr(weight, "ds_id"):
            with whole_weights([weight]):
                if this_process().is_first:
                    whole.append((weight, weight.detach().to("cpu", copy=True)))
    shares = [(weight, weight.data) for weight, _ in whole]
    try:
        for weight, content in whole:
            weight.data = content
        with whole_weights(weights_outside(model, bare)):
            yield
    finally:
        for weight, share in shares:
            weight.data = share
