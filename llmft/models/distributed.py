"""Several processes: this one's rank, and gathering results and weights from all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from llmft.runs.launch import this_process


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) on a plain start. Where there are several and no group of them yet,
    whatever they would do together is an error of torch's: none goes on as if it were alone."""
    process = this_process()
    return process.rank, process.world_size


def all_gather(value: Any) -> list[Any]:
    """Every rank's `value`, in rank order, on every rank. The value must be picklable."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    torch.distributed.all_gather_object(values, value)
    return values


def from_rank_0(value: Any) -> Any:
    """Rank 0's `value` on every rank. It must be picklable."""
    if rank_and_world()[1] == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def lost_peer(error: RuntimeError) -> bool:
    """Whether ranks could not do something together because another one has ended."""
    lost = isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)
    return lost and this_process().world_size > 1


def in_group() -> bool:
    """Whether this process is in a process group with others."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def leave_together() -> None:
    """Wait for all ranks and end the process group, if there (still) is one.

    A rank that just exits leaves the group's threads running, which now and then aborts the process after its work is done.
    """
    if in_group():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def cut_up(model: torch.nn.Module) -> bool:
    """Whether DeepSpeed ZeRO-3 has cut up weights of the model: ranks must then go through the same modules, as often."""
    return any(hasattr(weight, "ds_id") for weight in model.parameters())


@contextmanager
def whole_weights(weights: Iterable[torch.Tensor]) -> Iterator[None]:
    """Context: every rank holds the whole of those weights that DeepSpeed ZeRO-3 has cut up; nothing to do for others."""
    parts = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield


@contextmanager
def weights_when_needed(model: torch.nn.Module, bare: torch.nn.Module) -> Iterator[None]:
    """Context: a module holds the whole of its weights while it computes, where DeepSpeed ZeRO-3 has cut them up: no rank ever
    holds the whole model. All ranks must go through the same modules. What DeepSpeed's engine has gathered is left to it.

    Args:
        bare: the part of `model` whose modules use their weights in their own `forward` alone. The few others (soft prompts) are
            whole all along, and so are those in lists and dicts (IA3).
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


def weights_beside(model: torch.nn.Module, bare: torch.nn.Module) -> list[torch.Tensor]:
    """The weights of `model` that are not in its part `bare`: of a transformers model, its virtual tokens."""
    inside = set(bare.parameters())
    return [weight for weight in model.parameters() if weight not in inside]


@contextmanager
def weights_on_rank_0(model: torch.nn.Module, bare: torch.nn.Module) -> Iterator[None]:
    """Context: rank 0 holds all weights of the model, to save them; those that DeepSpeed ZeRO-3 has cut up are on the CPU.
    All ranks gather them, one after the other.

    Args:
        bare: the part of `model` that saving computes nothing with. The few other weights (virtual tokens, which peft puts
            together before it saves them) are whole on all ranks.
    """
    rank, _ = rank_and_world()
    whole: list[tuple[torch.Tensor, torch.Tensor]] = []
    for weight in bare.parameters():
        if hasattr(weight, "ds_id"):
            with whole_weights([weight]):
                if rank == 0:
                    whole.append((weight, weight.detach().to("cpu", copy=True)))
    shares = [(weight, weight.data) for weight, _ in whole]
    try:
        for weight, content in whole:
            weight.data = content
        with whole_weights(weights_beside(model, bare)):
            yield
    finally:
        for weight, share in shares:
            weight.data = share
