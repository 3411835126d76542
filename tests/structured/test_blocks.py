"""Products with block-diagonal factors against dense matrices, and the bound on nearly orthogonal blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lipnet.structured import Mixing
from lipnet.structured.blocks import block_product, orthogonal_blocks_bound
from tests.oracles import Matrix, permutation_matrix, shuffle_places, spectral_norm


def gathered_entries(features: int, block_size: int, mixing: Mixing) -> list[list[int]]:
    """The entries that each block takes, number by number, from the definition."""
    run = block_size // mixing.parts
    runs = [list(range(start, start + run)) for start in range(0, features, run)]
    chunk = mixing.parts * mixing.distance
    firsts = [first for first in range(len(runs)) if first % chunk < mixing.distance]
    return [[i for part in range(mixing.parts) for i in runs[first + part * mixing.distance]] for first in firsts]


def dense_factor(blocks: Tensor, mixing: Mixing) -> Matrix:
    features = blocks.shape[0] * blocks.shape[1]
    matrix = np.zeros((features, features))
    for block, entries in zip(blocks.numpy(), gathered_entries(features, blocks.shape[1], mixing), strict=True):
        matrix[np.ix_(entries, entries)] = block
    return matrix


def random_blocks(features: int, block_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(features // block_size, block_size, block_size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 1, 4)])
@pytest.mark.parametrize(
    ("features", "block_size", "mixing"),
    [
        (6, 3, Mixing()),
        (12, 3, Mixing(3, 4)),
        (12, 4, Mixing(4, 3)),
        (16, 4, Mixing(2, 2)),
        (24, 4, Mixing(2, 1)),
        (24, 4, Mixing(2, 2)),
        (32, 4, Mixing(2, 8)),
        (24, 6, Mixing(3, 2)),
        (5, 5, Mixing()),
        (7, 1, Mixing()),
        (7, 1, Mixing(1, 7)),
    ],
)
def test_product_with_the_dense_matrix(features: int, block_size: int, mixing: Mixing, shape: tuple[int, ...]) -> None:
    mixing.check(features, block_size)
    blocks = random_blocks(features, block_size)
    x = torch.randn(*shape[:-1], features, shape[-1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    product = block_product(blocks, x, mixing)
    np.testing.assert_allclose(product.numpy(), dense_factor(blocks, mixing) @ x.numpy(), atol=1e-12)


@pytest.mark.parametrize(("features", "block_size"), [(12, 3), (12, 4), (16, 4), (30, 5)])
def test_the_shuffled_factor_is_p_transposed_d_p(features: int, block_size: int) -> None:
    r = features // block_size
    blocks = random_blocks(features, block_size)
    p = permutation_matrix(shuffle_places(features, r, paired=False))
    expected = p.T @ scipy.linalg.block_diag(*blocks.numpy()) @ p
    product = block_product(blocks, torch.eye(features, dtype=torch.float64), Mixing(block_size, r))
    np.testing.assert_allclose(product.numpy(), expected, atol=1e-15)


def test_gradient() -> None:
    blocks = random_blocks(12, 3).requires_grad_()
    x = torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b, x: block_product(b, x, Mixing(3, 4)), (blocks, x))


def test_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be divisible by 8 \(block_size 8\), got 147"):
        Mixing().check(147, 8)
    with pytest.raises(ValueError, match=r"divisible by 32 \(block_size 8 times distance 4\), got 48"):
        Mixing(2, 4).check(48, 8)
    with pytest.raises(ValueError, match="block_size must be divisible by 2, the number of runs, got 3"):
        Mixing(2, 2).check(12, 3)
    with pytest.raises(ValueError, match="at least 1, got 12, 0, 1 and 1"):
        Mixing().check(12, 0)


def orthogonal_blocks(dtype: torch.dtype) -> Tensor:
    return torch.linalg.qr(random_blocks(64, 8)).Q.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "room"), [(torch.float64, 1e-13), (torch.float32, 3e-6), (torch.float16, 3e-2), (torch.bfloat16, 0.2)]
)
def test_the_bound_is_above_the_norm_and_near_it(dtype: torch.dtype, room: float) -> None:
    blocks = orthogonal_blocks(dtype)
    largest = max(spectral_norm(block) for block in blocks.double().numpy())
    assert max(1.0, largest) <= orthogonal_blocks_bound(blocks) <= 1 + room


@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.9, 1.1, 100.0])
def test_the_bound_holds_for_blocks_that_are_not_orthogonal(scale: float) -> None:
    blocks = scale * orthogonal_blocks(torch.float64)
    blocks[3, :, 0] *= 2
    assert max(spectral_norm(block) for block in blocks.numpy()) <= orthogonal_blocks_bound(blocks)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_the_bound_of_blocks_that_are_not_finite_is_infinite(value: float) -> None:
    blocks = orthogonal_blocks(torch.float32)
    blocks[2, 0, 1] = value
    assert orthogonal_blocks_bound(blocks) == math.inf
