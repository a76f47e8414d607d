"""Muon for many small matrices on a CPU (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

The update is that of `torch.optim.Muon`, which processes the matrices one by one and in bfloat16; on a CPU that took half of
every step. Here matrices of the same shape are stacked and orthogonalised together, in their own precision.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with an update whose singular values are close to 1. For matrices (out, in), or stacks of them (...,
    out, in).

    Args:
        weight_decay: decoupled, times the learning rate.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Moves all parameters that have a gradient."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                rows, columns = shape[-2:]
                averages = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in parameters])
                updates = orthogonalize(averages.view(-1, rows, columns)).view_as(averages)
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    if group["weight_decay"]:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update, alpha=rate)

    def _momentum(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        state = self.state[parameter]
        average = state.setdefault("average", torch.zeros_like(parameter)).lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Brings the singular values of (n, rows, columns) matrices close to 1, by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
