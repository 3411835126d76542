"""Muon on the matrices of kernels, and AdamW for the rest."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lipnet.functional.autocast import multiplies_bfloat16_fast
from lipnet.training.closure import Closure, loss_of
from lipnet.training.optimizers import CombinedOptimizer

# Multiplications of A A^T from which a processor is faster in bfloat16, in spite of the conversions.
_LARGE = 2**24


class KernelMuon(Optimizer):
    r"""Muon for weights of two or more dimensions: orthogonal steps.

    With a gradient G, the momentum is :math:`B \leftarrow \mu B + (1 - \mu) G`, and the step

    .. math:: W \leftarrow (1 - \eta \lambda) W - \eta \sqrt{\max(1, m / n)}\ O(\mu B + (1 - \mu) G),

    where O(A) is nearly the polar factor of an m x n matrix A: `nearly_orthogonal`. A kernel (c_out, c_in/groups, ...)
    is one matrix for each block of c_in/groups rows, which are the groups of a skew filter. If such blocks do not
    divide c_out, it is one matrix.

    ``torch.optim.Muon`` only takes matrices and multiplies them in bfloat16. On a processor without bfloat16
    instructions, that takes as long as 27 training steps of LipConvNet-5. This class multiplies in bfloat16 only on
    devices with matrix units for it, and in the weights' dtype on others.

    Args:
        params: weights of at least two dimensions.
        lr: the learning rate eta.
        momentum: mu, in [0, 1).
        weight_decay: lambda, decoupled from the gradient.
        steps: number of steps in `nearly_orthogonal`.

    Raises:
        ValueError: for a setting out of range, and for a parameter of less than two dimensions.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
    ) -> None:
        for name, value in {"lr": lr, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})
        for weight in (each for group in self.param_groups for each in group["params"]):
            if weight.dim() < 2:
                raise ValueError(f"Muon needs weights of at least two dimensions, got shape {tuple(weight.shape)}")

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        loss = loss_of(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, **{name: group[name] for name in ("lr", "momentum", "weight_decay", "steps")})
        return loss

    def _move(self, weight: Tensor, lr: float, momentum: float, weight_decay: float, steps: int) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
        matrices = blocks(weight.grad.lerp(average, momentum))
        rows, columns = matrices.shape[-2:]
        direction = nearly_orthogonal(matrices, steps).reshape(weight.shape)
        weight.mul_(1 - lr * weight_decay).sub_(direction, alpha=lr * sqrt(max(1, rows / columns)))


def blocks(weight: Tensor) -> Tensor:
    """Return a weight (c_out, m, ...) as matrices (k, rows, columns).

    A kernel whose c_out is divisible by m gives blocks of m rows. Any other weight is one matrix.
    """
    rows, inputs = weight.shape[:2]
    size = inputs if weight.dim() > 2 and rows % inputs == 0 else rows
    return weight.reshape(rows // size, size, -1)


def nearly_orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return matrices (k, m, n) with the same singular vectors, and singular values between about 0.7 and 1.2.

    Each step takes a singular value s to 3.4445 s - 4.7750 s^3 + 2.0315 s^5, which makes small ones grow fastest. It
    multiplies large float32 matrices in bfloat16 on devices with matrix units for it.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    result: Tensor = matrices if wide else matrices.mT
    result = result / torch.linalg.matrix_norm(result).clamp_min(1e-7)[..., None, None]
    if result.dtype == torch.float32 and _reduces(result):
        result = result.to(torch.bfloat16)
    for _ in range(steps):
        gram = result @ result.mT
        even = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        result = torch.baddbmm(result, even, result, beta=3.4445)
    return (result if wide else result.mT).to(matrices.dtype)


def _reduces(matrices: Tensor) -> bool:
    large = matrices.device.type != "cpu" or matrices.shape[-2] * matrices.numel() >= _LARGE
    return large and multiplies_bfloat16_fast(matrices.device)


def Muon(  # noqa: N802
    params: Iterable[Any],
    lr: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    rest_lr: float = 1e-3,
    steps: int = 5,
) -> Optimizer:
    """Return `KernelMuon` for the parameters of two or more dimensions, and AdamW for the others.

    `KernelMuon` also updates the free weights behind orthogonal layers. Orthogonal steps do not keep these weights
    orthogonal, and need not: the layers are orthogonal for any weights.

    Args:
        params: parameters, or groups of them, as for any optimizer.
        lr, momentum, weight_decay, steps: as in `KernelMuon`.
        rest_lr: learning rate of biases and other vectors.

    Raises:
        ValueError: as for `KernelMuon`.
    """
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    weights, vectors = (
        [{**group, "params": chosen} for group in groups if (chosen := _select(group["params"], matrices))]
        for matrices in (True, False)
    )
    parts: list[Optimizer] = []
    if weights:
        parts.append(KernelMuon(weights, lr=lr, momentum=momentum, weight_decay=weight_decay, steps=steps))
    if vectors:
        parts.append(AdamW(vectors, lr=rest_lr, weight_decay=weight_decay))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


def _select(parameters: Iterable[Tensor], matrices: bool) -> list[Tensor]:
    """Return the parameters of two or more dimensions, or else the others."""
    return [parameter for parameter in parameters if (parameter.dim() >= 2) == matrices]
