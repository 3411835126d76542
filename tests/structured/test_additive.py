"""Additive updates against dense matrices of numpy and scipy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from lipnet.structured import (
    AdditiveUpdate,
    Circulant,
    Kronecker,
    LowDisplacementRank,
    LowRank,
    SkewCirculant,
    Toeplitz,
)
from tests.oracles import Matrix, to_numpy
from tests.structured.test_circulant import skew_circulant

Make = Callable[..., AdditiveUpdate]
Dense = Callable[[AdditiveUpdate, int, int], Matrix]


def low_rank(update: AdditiveUpdate, rows: int, columns: int) -> Matrix:
    return 16 / 3 * to_numpy(update.get_parameter("B")) @ to_numpy(update.get_parameter("A"))


def circulant(update: AdditiveUpdate, rows: int, columns: int) -> Matrix:
    return np.asarray(scipy.linalg.circulant(to_numpy(update.get_parameter("column")))[:rows, :columns])


def skew(update: AdditiveUpdate, rows: int, columns: int) -> Matrix:
    return skew_circulant(to_numpy(update.get_parameter("column")))[:rows, :columns]


def toeplitz(update: AdditiveUpdate, rows: int, columns: int) -> Matrix:
    d = to_numpy(update.get_parameter("diagonals"))
    return np.array([[d[i - j + columns - 1] for j in range(columns)] for i in range(rows)])


def kronecker(update: AdditiveUpdate, rows: int, columns: int) -> Matrix:
    return np.kron(to_numpy(update.get_parameter("left")), to_numpy(update.get_parameter("right")))


def low_displacement_rank(update: AdditiveUpdate, rows: int, columns: int) -> Matrix:
    g, h = to_numpy(update.get_parameter("circulant")), to_numpy(update.get_parameter("skew_circulant"))
    products = [scipy.linalg.circulant(a) @ skew_circulant(b) for a, b in zip(g, h, strict=True)]
    return np.sum(products, axis=0)[:rows, :columns]


STRUCTURES: dict[str, tuple[Make, Dense]] = {
    "low rank": (partial(LowRank, rank=3), low_rank),
    "circulant": (Circulant, circulant),
    "skew-circulant": (SkewCirculant, skew),
    "Toeplitz": (Toeplitz, toeplitz),
    "Kronecker": (Kronecker, kronecker),
    "low displacement rank": (partial(LowDisplacementRank, rank=2), low_displacement_rank),
}
each_structure = pytest.mark.parametrize(("make", "dense"), STRUCTURES.values(), ids=STRUCTURES.keys())
each_shape = pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1), (1, 1), (7, 5)])


def build(make: Make, shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> AdditiveUpdate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*shape, dtype=dtype)


class Product(nn.Module):
    """The fast product as a forward pass, which is what ``functional_call`` calls."""

    def __init__(self, update: AdditiveUpdate) -> None:
        super().__init__()
        self.update = update

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.update.matmul(x)


def randomised(update: AdditiveUpdate) -> AdditiveUpdate:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return update


@each_structure
@each_shape
def test_the_matrix_follows_its_definition(shape: tuple[int, int], make: Make, dense: Dense) -> None:
    update = randomised(build(make, shape))
    expected = dense(update, *shape)
    assert expected.shape == shape
    np.testing.assert_allclose(to_numpy(update.to_dense()), expected, atol=1e-12)


@each_structure
@each_shape
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_product_is_that_of_the_matrix(
    batch: tuple[int, ...], shape: tuple[int, int], make: Make, dense: Dense
) -> None:
    update = randomised(build(make, shape))
    x = torch.randn(*batch, shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = to_numpy(x) @ dense(update, *shape).T
    assert update.matmul(x).shape == expected.shape
    np.testing.assert_allclose(to_numpy(update.matmul(x)), expected, atol=1e-12)


@each_structure
@each_shape
def test_it_starts_at_zero_but_can_move(shape: tuple[int, int], make: Make, dense: Dense) -> None:
    update = build(make, shape)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(update(weight), weight)
    assert not update.to_dense().any()
    (update(weight) * weight).sum().backward()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in update.parameters())


@each_structure
def test_a_weight_is_updated_by_the_matrix(make: Make, dense: Dense) -> None:
    update = randomised(build(make, (4, 9)))
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    np.testing.assert_allclose(to_numpy(update(weight)), to_numpy(weight) + dense(update, 4, 9), atol=1e-12)


@each_structure
@pytest.mark.parametrize("shape", [(3, 4), (4, 3)])
def test_gradients(shape: tuple[int, int], make: Make, dense: Dense) -> None:
    update = randomised(build(make, shape))
    x = torch.randn(2, shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    names, values = zip(*update.named_parameters(), strict=True)
    parameters = tuple(value.detach().clone().requires_grad_() for value in values)

    def product(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        given = {f"update.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Product(update), given, (x,))

    def updated(*values: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(shape, dtype=torch.float64)
        return torch.func.functional_call(update, dict(zip(names, values, strict=True)), (zero,))

    assert torch.autograd.gradcheck(product, (x, *parameters))
    assert torch.autograd.gradcheck(updated, parameters)


@each_structure
def test_float32_is_close_to_float64(make: Make, dense: Dense) -> None:
    update = randomised(build(make, (12, 20), torch.float32))
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(2))
    product, matrix = update.matmul(x), update.to_dense()
    assert product.dtype == matrix.dtype == torch.float32
    scale = float(np.abs(dense(update, 12, 20)).max())
    np.testing.assert_allclose(to_numpy(product), to_numpy(x) @ dense(update, 12, 20).T, atol=1e-4 * scale)


@pytest.mark.parametrize(
    ("update", "count"),
    [
        (LowRank(768, 3072, rank=8), 8 * (768 + 3072)),
        (Circulant(768, 3072), 3072),
        (SkewCirculant(3072, 768), 3072),
        (Toeplitz(768, 3072), 768 + 3072 - 1),
        (Kronecker(768, 3072), 24 * 48 + 32 * 64),
        (Kronecker(768, 3072, left_shape=(2, 3)), 2 * 3 + 384 * 1024),
        (Kronecker(7, 13), 7 * 13 + 1),
        (LowDisplacementRank(768, 3072, rank=2), 2 * 2 * 3072),
    ],
)
def test_parameter_counts(update: AdditiveUpdate, count: int) -> None:
    assert sum(parameter.numel() for parameter in update.parameters()) == count


def test_settings_that_make_no_sense_are_refused() -> None:
    for rank in (0, -1):
        with pytest.raises(ValueError, match=f"rank must be at least 1, got {rank}"):
            LowRank(4, 4, rank=rank)
        with pytest.raises(ValueError, match=f"rank must be at least 1, got {rank}"):
            LowDisplacementRank(4, 4, rank=rank)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"alpha must be finite and positive, got {alpha}"):
            LowRank(4, 4, alpha=alpha)
    with pytest.raises(ValueError, match="must divide the weight's shape 6 x 4, got 4 x 2"):
        Kronecker(6, 4, left_shape=(4, 2))
    with pytest.raises(ValueError, match="got 0 x 2"):
        Kronecker(6, 4, left_shape=(0, 2))
    with pytest.raises(ValueError, match="at least one row and one column, got 0 x 4"):
        Circulant(0, 4)
