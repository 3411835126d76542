"""Orthogonal matrices from skew-symmetric ones: the Cayley transform and the exponential, for batches of small blocks.

Both guarantee columns that are orthonormal to 10 n eps, for ||K|| up to 10^6. They compute in float64 whatever the
dtype, and end with one Newton-Schulz step: the errors of the linear solve and of the exponential's squarings grow with
||K||, and in float32 a K of norm 100 would already miss the guarantee.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipnet.functional.orthogonal_matrices import newton_schulz_step

# Blocks up to this size are inverted by LU, in half the time. For larger ones, LU of a batch hangs in some builds of
# torch: 2.14.1 on an Intel processor with AMX, for four 192 x 192 matrices after torch.set_num_threads(2).
_LARGEST_LU = 64


def skew_symmetric(matrices: Tensor) -> Tensor:
    """Return K = A - A^T for matrices A (..., n, n)."""
    return matrices - matrices.mT


def upper_triangle(skew: Tensor) -> Tensor:
    """Return the entries of K (..., n, n) above the diagonal, row by row, as (..., n (n - 1) / 2). They determine K."""
    size = skew.shape[-1]
    rows, columns = torch.triu_indices(size, size, offset=1, device=skew.device)
    return skew[..., rows, columns]


def from_upper_triangle(entries: Tensor, size: int) -> Tensor:
    """Return the strictly upper triangular A (..., n, n) with A - A^T = K, from the `upper_triangle` of K."""
    rows, columns = torch.triu_indices(size, size, offset=1, device=entries.device)
    matrices = entries.new_zeros(*entries.shape[:-1], size, size)
    matrices[..., rows, columns] = entries
    return matrices


def cayley(skew: Tensor) -> Tensor:
    """Return the Cayley transform (I + K)(I - K)^{-1} of skew-symmetric K (..., n, n).

    The result is orthogonal and never has the eigenvalue -1. I - K is never singular, as the eigenvalues of K are
    imaginary. K = 0 gives exactly I; non-finite entries give NaN. The derivative is dQ = (I + Q) dK (I + Q) / 2.

    Example:
        >>> quarter_turn = cayley(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> quarter_turn.tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    rotation: Tensor = _Cayley.apply(skew.double())
    return rotation.to(skew.dtype)


def exponential(skew: Tensor) -> Tensor:
    """Return exp(K) for skew-symmetric K (..., n, n). Every rotation is such an exponential; K = 0 gives exactly I.

    Example:
        >>> half_turn = exponential(torch.pi * torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> half_turn.round(decimals=4).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return newton_schulz_step(torch.linalg.matrix_exp(skew.double())).to(skew.dtype)


BLOCK_MAPS: dict[str, Callable[[Tensor], Tensor]] = {"cayley": cayley, "exponential": exponential}


class _Cayley(torch.autograd.Function):
    """The Cayley transform with its derivative in closed form.

    (I - K)^{-1} equals (I + Q) / 2, so that the derivative solves no second system.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(skew: Tensor) -> Tensor:
        return newton_schulz_step(_by_lu(skew) if skew.shape[-1] <= _LARGEST_LU else _by_cholesky(skew))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _derivative(ctx.saved_tensors[0].mT, gradient)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _derivative(ctx.saved_tensors[0], tangent)


def _by_lu(skew: Tensor) -> Tensor:
    """Return (I - K)^{-1} (I + K), which equals (I + K)(I - K)^{-1} because the factors commute."""
    identity = _identity_like(skew)
    # linalg.solve would raise for non-finite K, and synchronise with the device to do so.
    rotation: Tensor = torch.linalg.solve_ex(identity - skew, identity + skew)[0]
    return rotation


def _by_cholesky(skew: Tensor) -> Tensor:
    """Return (I + K)(I - K)^{-1} = 2 (I - K)^{-1} - I, with (I - K)^{-1} = (I + K) M^{-1}.

    M = (I - K)(I + K) = I + K^T K is positive definite, with the squared condition number of I - K. One step of
    Newton's method for the inverse makes up for that, up to ||K|| = 10^6.
    """
    identity = _identity_like(skew)
    other = identity + skew
    root = torch.linalg.cholesky_ex(other @ other.mT)[0]
    inverse_root = torch.linalg.solve_triangular(root, identity.expand_as(root), upper=False)
    inverse: Tensor = other @ (inverse_root.mT @ inverse_root)
    inverse = inverse + inverse @ (identity - inverse + skew @ inverse)
    return 2 * inverse - identity


def _derivative(q: Tensor, direction: Tensor) -> Tensor:
    """Return (I + Q) direction (I + Q) / 2."""
    outer = q + _identity_like(q)
    return outer @ (direction / 2) @ outer


def _identity_like(matrices: Tensor) -> Tensor:
    return torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
