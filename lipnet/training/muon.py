"""Muon on kernels: torch's Muon for matrices, applied to flattened weights, and AdamW for the rest."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lipnet.training.optimizers import CombinedOptimizer


class FlatMuon(Optimizer):
    """``torch.optim.Muon`` for weights of two or more dimensions, each as a matrix of its rows.

    A weight is the matrix (c_out, everything else). Its step is the learning rate times sqrt(max(1, rows / columns)),
    times nearly the polar factor of the momentum of its gradient. torch's class takes matrices alone. Here the groups
    hold the weights themselves, so that clipping, schedules and checkpoints work as for any optimizer.

    Args:
        params: weights of at least two dimensions.
        lr, momentum: learning rate and momentum.
        weight_decay: decoupled, as in AdamW.
        options: further ones of ``torch.optim.Muon``, such as ``ns_steps`` and ``adjust_lr_fn``.

    Raises:
        ValueError: for a parameter of less than two dimensions.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, **options: Any
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, **options})
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.dim() < 2:
                    raise ValueError(f"Muon needs weights of at least two dimensions, got shape {tuple(weight.shape)}")
        groups = [
            {**group, "params": [nn.Parameter(_flat(weight)) for weight in group["params"]]}
            for group in self.param_groups
        ]
        self._matrices = torch.optim.Muon(groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, inner in zip(self.param_groups, self._matrices.param_groups, strict=True):
            inner.update({name: value for name, value in group.items() if name != "params"})
            for weight, matrix in zip(group["params"], inner["params"], strict=True):
                # Anew in each step: weights may have been moved or loaded.
                matrix.data = _flat(weight)
                matrix.grad = None if weight.grad is None else weight.grad.reshape(matrix.shape)
                self._matrices.state[matrix] = self.state[weight]
        self._matrices.step()  # type: ignore[no-untyped-call]
        return loss


def Muon(  # noqa: N802
    params: Iterable[Any],
    lr: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    rest_lr: float = 1e-3,
    **options: Any,
) -> Optimizer:
    """Return `FlatMuon` for the parameters of two or more dimensions, and AdamW for the others.

    The free weights behind orthogonal layers are among the first: their update is orthogonal, their layer is anyway.

    Args:
        params: parameters, or groups of them, as for any optimizer.
        lr, momentum, weight_decay, options: as in `FlatMuon`.
        rest_lr: learning rate of biases and other vectors.
    """
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    weights, vectors = (
        [{**group, "params": chosen} for group in groups if (chosen := _of_dimension(group["params"], matrices))]
        for matrices in (True, False)
    )
    parts: list[Optimizer] = []
    if weights:
        parts.append(FlatMuon(weights, lr=lr, momentum=momentum, weight_decay=weight_decay, **options))
    if vectors:
        parts.append(AdamW(vectors, lr=rest_lr, weight_decay=weight_decay))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


def _of_dimension(parameters: Iterable[Tensor], matrices: bool) -> list[Tensor]:
    return [parameter for parameter in parameters if (parameter.dim() >= 2) == matrices]


def _flat(weight: Tensor) -> Tensor:
    return weight.detach().view(len(weight), -1)
