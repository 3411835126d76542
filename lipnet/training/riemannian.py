"""Adam on the manifold of orthogonal matrices."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lipnet.functional.orthogonal_matrices import polar_retraction
from lipnet.training.closure import Closure, loss_of

ORTHOGONAL = "orthogonal"
"""Key of the parameter groups whose matrices are orthogonal."""


class RiemannianAdam(Optimizer):
    r"""Adam for orthogonal matrices X: steps along geodesics, so that X stays orthogonal.

    The gradient G of the loss has the component :math:`X D` in the tangent space, :math:`D = (X^T G - G^T X) / 2`.
    Adam's moments average the skew-symmetric D and its squares, entry by entry, so m is skew-symmetric, v is symmetric,
    and the exponential below is orthogonal:

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) D, \quad v \leftarrow \beta_2 v + (1 - \beta_2) D \circ D, \quad
        X \leftarrow X \exp\left(-\eta\,\frac{\hat m}{\sqrt{\hat v} + \varepsilon}\right)

    where the hats are Adam's bias corrections. Everything is computed by matrix products. In float32, rounding moves X
    off the manifold by about 1e-7 a step; every ``retract_every`` steps a Newton-Schulz iteration brings it back. The
    certified bound is computed from X itself, so it covers the rest of the deviation.

    Args:
        params: weights (m n, n), each a stack of m orthogonal n x n matrices.
        lr: eta.
        betas: decay rates of the two moments, in [0, 1).
        eps: positive.
        retract_every: number of steps between retractions, at least 1.

    Raises:
        ValueError: for a setting out of range, and for parameters of another shape.

    Source: Becigneul & Ganea, "Riemannian adaptive optimization methods", ICLR 2019 (arXiv 1810.00760); on networks of
    isometries: LipNeXt (arXiv 2601.18513).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        retract_every: int = 100,
    ) -> None:
        if not lr > 0 or not eps > 0 or not all(0 <= beta < 1 for beta in betas) or retract_every < 1:
            raise ValueError(
                "lr and eps must be positive, betas in [0, 1), and retract_every at least 1, got "
                f"{lr}, {eps}, {tuple(betas)} and {retract_every}"
            )
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "retract_every": retract_every, ORTHOGONAL: True}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.dim() != 2 or len(matrix) % matrix.shape[1]:
                    raise ValueError(f"params must be orthogonal matrices of shape (m n, n), got {tuple(matrix.shape)}")

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        loss = loss_of(closure)
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group)
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[weight], group["betas"]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        matrices, mean, square = (stacked(each) for each in (weight, state["exp_avg"], state["exp_avg_sq"]))
        component = matrices.mT @ stacked(gradient)
        component = (component - component.mT) / 2
        mean.lerp_(component, 1 - beta1)
        square.lerp_(component.square(), 1 - beta2)
        scale = (square / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
        direction = mean / (1 - beta1 ** state["step"]) / scale
        moved = matrices @ torch.linalg.matrix_exp(-group["lr"] * direction)
        if state["step"] % group["retract_every"] == 0:
            moved = polar_retraction(moved)
        matrices.copy_(moved)


def stacked(weight: Tensor) -> Tensor:
    """Return the matrices (m, n, n) of a weight (m n, n), as a view where the weight is contiguous."""
    return weight.reshape(-1, weight.shape[1], weight.shape[1])
