"""Orthogonal matrices from skew-symmetric ones: the Cayley transform and the exponential, for batches of small blocks.

Both are computed in float64 whatever the dtype, and polished by one Newton-Schulz step. The error of the linear solve
grows like ||K|| and that of the exponential's squarings too, so that in float32 alone a K of norm 100 would already
give columns that are not orthonormal to 10 n eps; so computed they are, up to a norm of 10^6.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def skew_symmetric(matrices: Tensor) -> Tensor:
    """K = A - A^T of matrices A (..., n, n)."""
    return matrices - matrices.mT


def upper_triangle(skew: Tensor) -> Tensor:
    """The entries above the diagonal of (..., n, n), (..., n (n - 1) / 2), row by row: what a skew K consists of."""
    size = skew.shape[-1]
    rows, columns = torch.triu_indices(size, size, offset=1, device=skew.device)
    return skew[..., rows, columns]


def from_upper_triangle(entries: Tensor, size: int) -> Tensor:
    """The strictly upper triangular A (..., size, size) with A - A^T = K, from K's `upper_triangle`."""
    rows, columns = torch.triu_indices(size, size, offset=1, device=entries.device)
    matrices = entries.new_zeros(*entries.shape[:-1], size, size)
    matrices[..., rows, columns] = entries
    return matrices


def cayley(skew: Tensor) -> Tensor:
    """The Cayley transform (I + K)(I - K)^{-1} of skew-symmetric K (..., n, n): orthogonal, without eigenvalue -1.

    I - K is never singular, as the eigenvalues of K are imaginary. K = 0 gives exactly I; entries that are not finite
    give NaN. The derivative is dQ = (I + Q) dK (I + Q) / 2.

    Example:
        >>> quarter_turn = cayley(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> quarter_turn.tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    rotation: Tensor = _Cayley.apply(skew.double())
    return rotation.to(skew.dtype)


def exponential(skew: Tensor) -> Tensor:
    """exp(K) of skew-symmetric K (..., n, n): every rotation is one. K = 0 gives exactly I.

    Example:
        >>> half_turn = exponential(torch.pi * torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> half_turn.round(decimals=4).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return _polished(torch.linalg.matrix_exp(skew.double())).to(skew.dtype)


BLOCK_MAPS: dict[str, Callable[[Tensor], Tensor]] = {"cayley": cayley, "exponential": exponential}


class _Cayley(torch.autograd.Function):
    """The transform with its derivative in closed form: (I - K)^{-1} is (I + Q) / 2, so no second system is solved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(skew: Tensor) -> Tensor:
        identity = _identity_like(skew)
        # The factors commute. solve_ex, as solve would raise for K that is not finite, and wait for the device to know.
        return _polished(torch.linalg.solve_ex(identity - skew, identity + skew)[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _halved_sandwich(_plus_identity(ctx.saved_tensors[0]).mT, gradient)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _halved_sandwich(_plus_identity(ctx.saved_tensors[0]), tangent)


def _plus_identity(matrices: Tensor) -> Tensor:
    return matrices + _identity_like(matrices)


def _halved_sandwich(outer: Tensor, inner: Tensor) -> Tensor:
    product: Tensor = outer @ (inner / 2) @ outer
    return product


def _identity_like(matrices: Tensor) -> Tensor:
    return torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)


def _polished(nearly_orthogonal: Tensor) -> Tensor:
    """One Newton-Schulz step, Q + Q (I - Q^T Q) / 2: a deviation d of Q^T Q from I becomes about 3 d^2 / 4."""
    deviation = _identity_like(nearly_orthogonal) - nearly_orthogonal.mT @ nearly_orthogonal
    return nearly_orthogonal + nearly_orthogonal @ deviation / 2
