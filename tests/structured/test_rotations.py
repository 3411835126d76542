"""The Cayley transform and the exponential against dense linear algebra."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.structured import rotations
from lipnet.structured.rotations import (
    BLOCK_MAPS,
    cayley,
    exponential,
    from_upper_triangle,
    skew_symmetric,
    upper_triangle,
)
from tests.oracles import exponential as dense_exponential

DTYPES = [torch.float32, torch.float64]


def random_skew(size: int, scale: float = 1.0, blocks: int = 3, rank: int | None = None, seed: int = 0) -> Tensor:
    """Skew matrices of entries about ``scale``; with a rank, the other eigenvalues are zero: the worst condition."""
    matrices = torch.randn(blocks, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrices[:, rank:] = 0 if rank is not None else matrices[:, rank:]
    return skew_symmetric(scale * matrices)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_against_the_inverse_and_the_exponential_of_dense_matrices(size: int, scale: float) -> None:
    skew = random_skew(size, scale)
    identity = np.eye(size)
    for block, by_cayley, by_exponential in zip(skew.numpy(), cayley(skew), exponential(skew), strict=True):
        expected = (identity + block) @ np.linalg.inv(identity - block)
        np.testing.assert_allclose(by_cayley.numpy(), expected, atol=1e-12)
        np.testing.assert_allclose(by_exponential.numpy(), dense_exponential(block), atol=1e-12)


@pytest.mark.parametrize("block_map", BLOCK_MAPS.values(), ids=BLOCK_MAPS.keys())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("size", [2, 8, 32, 65])
def test_orthogonal_to_ten_n_eps_at_every_scale(
    size: int, rank: int | None, dtype: torch.dtype, block_map: Callable[[Tensor], Tensor]
) -> None:
    for scale in [0.0, 1e-30, 1e-3, 1.0, 1e2, 1e4]:
        q = block_map(random_skew(size, scale, rank=rank).to(dtype))
        assert q.dtype == dtype
        gram = (q.mT @ q).double()
        np.testing.assert_allclose(
            gram.numpy(), np.broadcast_to(np.eye(size), gram.shape), rtol=0, atol=10 * size * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("block_map", BLOCK_MAPS.values(), ids=BLOCK_MAPS.keys())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2, 8, 64, 96])
def test_norms_of_a_million(size: int, dtype: torch.dtype, block_map: Callable[[Tensor], Tensor]) -> None:
    for rank in (None, 2):
        skew = random_skew(size, rank=rank)
        skew *= 1e6 / torch.linalg.matrix_norm(skew, ord=2)[:, None, None]
        q = block_map(skew.to(dtype))
        gram = (q.mT @ q).double()
        atol = 10 * size * torch.finfo(dtype).eps
        np.testing.assert_allclose(gram.numpy(), np.broadcast_to(np.eye(size), gram.shape), rtol=0, atol=atol)


@pytest.mark.parametrize("block_map", BLOCK_MAPS.values(), ids=BLOCK_MAPS.keys())
@pytest.mark.parametrize("dtype", [torch.bfloat16, *DTYPES])
def test_zero_gives_exactly_the_identity(dtype: torch.dtype, block_map: Callable[[Tensor], Tensor]) -> None:
    assert torch.equal(block_map(torch.zeros(2, 8, 8, dtype=dtype)), torch.eye(8, dtype=dtype).expand(2, 8, 8))


@pytest.mark.parametrize("block_map", BLOCK_MAPS.values(), ids=BLOCK_MAPS.keys())
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_gradient(scale: float, block_map: Callable[[Tensor], Tensor]) -> None:
    a = scale * torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: block_map(skew_symmetric(a)), (a.requires_grad_(),))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2])
def test_gradient_of_large_blocks(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotations, "_LARGEST_LU", 0)
    a = random_skew(4, scale).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: cayley(skew_symmetric(a)), (a,))
    assert torch.autograd.gradgradcheck(lambda a: cayley(skew_symmetric(a)), (a,), atol=1e-4)


@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e3, 1e5, 1e6])
@pytest.mark.parametrize("rank", [None, 2])
def test_large_blocks_are_as_accurate_as_small_ones(
    norm: float, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against 60 digits: squaring the condition number costs no accuracy beyond that of the condition itself."""
    size = 8
    skew = random_skew(size, rank=rank, blocks=1)
    skew = skew_symmetric(skew / torch.linalg.matrix_norm(skew, ord=2) * norm / 2)
    with mpmath.workdps(60):
        exact, identity = mpmath.matrix(skew[0].tolist()), mpmath.eye(size)
        expected = np.array(((identity + exact) * (identity - exact) ** -1).tolist(), dtype=float)
    monkeypatch.setattr(rotations, "_LARGEST_LU", 0)
    by_cholesky = cayley(skew)[0].numpy()
    # One Newton step leaves about cond(I - K)^4 eps^2.
    allowed = 100 * size * max(norm, 1.0) * np.finfo(float).eps
    np.testing.assert_allclose(by_cholesky, expected, rtol=0, atol=allowed)
    np.testing.assert_allclose(by_cholesky.T @ by_cholesky, np.eye(size), rtol=0, atol=10 * size * 2.3e-16)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_entries_of_large_blocks_give_nan(value: float) -> None:
    skew = torch.zeros(2, 65, 65)
    skew[1, 0, 1], skew[1, 1, 0] = value, -value
    q = cayley(skew)
    assert torch.equal(q[0], torch.eye(65))
    assert not q[1].isfinite().all()


@pytest.mark.parametrize("size", [1, 3, 6])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_derivatives_of_the_orthogonal_cayley_in_closed_form(size: int, scale: float) -> None:
    skew = random_skew(size, scale).requires_grad_()
    identity = torch.eye(size, dtype=torch.float64)

    def by_inverse(skew: Tensor) -> Tensor:
        return (identity + skew) @ torch.linalg.inv(identity - skew)

    direction = random_skew(size, seed=1)
    for mode in (torch.func.jvp, torch.func.vjp):
        results = []
        for function in (cayley, by_inverse):
            if mode is torch.func.jvp:
                results.append(torch.func.jvp(function, (skew,), (direction,))[1])
            else:
                results.append(torch.func.vjp(function, skew)[1](direction)[0])
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradgradcheck(lambda a: cayley(skew_symmetric(a)), (random_skew(size, 0.5).requires_grad_(),))


@pytest.mark.parametrize("block_map", BLOCK_MAPS.values(), ids=BLOCK_MAPS.keys())
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_entries_give_non_finite_blocks(value: float, block_map: Callable[[Tensor], Tensor]) -> None:
    skew = torch.zeros(2, 2, 2)
    skew[1, 0, 1], skew[1, 1, 0] = value, -value
    q = block_map(skew)
    assert torch.equal(q[0], torch.eye(2))
    assert not q[1].isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_upper_triangle_is_all_there_is(size: int) -> None:
    skew = random_skew(size)
    entries = upper_triangle(skew)
    assert entries.shape == (3, size * (size - 1) // 2)
    expected = [[float(block[i, j]) for i in range(size) for j in range(i + 1, size)] for block in skew]
    assert entries.tolist() == expected
    assert torch.equal(skew_symmetric(from_upper_triangle(entries, size)), skew)
