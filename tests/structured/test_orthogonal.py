"""OFT, BOFT and GSOFT against products of dense matrices, at the start and after training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch

from lipnet.structured import Mixing, ShufflePower, StructuredOrthogonal, boft, gsoft, oft
from tests.oracles import Matrix, permutation_matrix, shuffle_places, spectral_norm, to_numpy

Make = Callable[..., StructuredOrthogonal]
MAKERS: dict[str, Make] = {
    "oft": partial(oft, 16, 4),
    "boft": partial(boft, 16, 4, 3),
    "gsoft": partial(gsoft, 16, 4),
    "gsoft, 4 factors": partial(gsoft, 16, 4, factors=4),
    "gsoft, exponential": partial(gsoft, 16, 4, "exponential"),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def randomised(matrix: StructuredOrthogonal, scale: float = 1.0, seed: int = 0) -> StructuredOrthogonal:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        matrix.generators.copy_(scale * torch.randn(matrix.generators.shape, generator=generator, dtype=torch.float64))
    return matrix


def dense_cayley(generators: Matrix) -> Matrix:
    """The block-diagonal matrix of a factor."""
    identity = np.eye(generators.shape[-1])
    skews = [a - a.T for a in generators]
    blocks = [(identity + k) @ np.linalg.inv(identity - k) for k in skews]
    return np.asarray(scipy.linalg.block_diag(*blocks), dtype=np.float64)


@each_maker
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_at_exactly_the_identity(make: Make, dtype: torch.dtype) -> None:
    matrix = make(dtype=dtype)
    assert torch.equal(matrix.to_dense(), torch.eye(16, dtype=dtype))
    x = torch.randn(16, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert torch.equal(matrix(x), x)


def test_oft_is_one_block_diagonal_factor() -> None:
    matrix = randomised(oft(12, 3, dtype=torch.float64))
    expected = dense_cayley(to_numpy(matrix.generators[0]))
    np.testing.assert_allclose(to_numpy(matrix.to_dense()), expected, atol=1e-13)


@pytest.mark.parametrize(("features", "block_size"), [(12, 3), (12, 4), (12, 6), (12, 12), (20, 2), (9, 1)])
def test_gsoft_is_p_transposed_l_p_r(features: int, block_size: int) -> None:
    matrix = randomised(gsoft(features, block_size, dtype=torch.float64))
    r, left = (dense_cayley(generators) for generators in to_numpy(matrix.generators))
    p = permutation_matrix(shuffle_places(features, features // block_size, paired=False))
    np.testing.assert_allclose(to_numpy(matrix.to_dense()), p.T @ left @ p @ r, atol=1e-13)


@pytest.mark.parametrize(
    ("features", "block_size", "factors"), [(12, 3, 1), (12, 3, 3), (12, 2, 5), (20, 4, 3), (16, 4, 4), (1, 1, 4)]
)
def test_gsoft_of_more_factors_has_the_shuffle_between_them(features: int, block_size: int, factors: int) -> None:
    matrix = randomised(gsoft(features, block_size, factors=factors, dtype=torch.float64))
    p = permutation_matrix(shuffle_places(features, features // block_size, paired=False))
    first, *others = (dense_cayley(generators) for generators in to_numpy(matrix.generators))
    expected = first
    for factor in others:
        expected = factor @ p @ expected
    expected = np.linalg.matrix_power(p.T, factors - 1) @ expected
    np.testing.assert_allclose(to_numpy(matrix.to_dense()), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("features", "block_size", "factors"), [(16, 4, 3), (24, 4, 2), (8, 2, 3), (6, 6, 1), (9, 3, 1)]
)
def test_boft_pairs_runs_at_distances_that_double(features: int, block_size: int, factors: int) -> None:
    matrix = randomised(boft(features, block_size, factors, dtype=torch.float64))
    expected = np.eye(features)
    for level, generators in enumerate(to_numpy(matrix.generators)):
        entries = list(range(features))
        if level:
            half, distance = block_size // 2, 2**level
            first_runs = [run for run in range(features // half) if (run // distance) % 2 == 0]
            pairs = [run for first in first_runs for run in (first, first + distance)]
            entries = [run * half + i for run in pairs for i in range(half)]
        # Entry entries[i] goes to place i.
        gather = permutation_matrix(entries).T
        expected = gather.T @ dense_cayley(generators) @ gather @ expected
    np.testing.assert_allclose(to_numpy(matrix.to_dense()), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("matrix", "dense"),
    [
        (oft(16, 4), False),
        (gsoft(16, 4), True),
        (gsoft(18, 3), False),
        (boft(16, 4, 2), False),
        (boft(16, 4, 3), True),
        (gsoft(18, 3, factors=3), True),
        (gsoft(96, 4, factors=3), False),
        (gsoft(96, 4, factors=4), True),
    ],
)
def test_where_every_output_depends_on_every_input(matrix: StructuredOrthogonal, dense: bool) -> None:
    q = randomised(matrix.double()).to_dense()
    assert bool((q.abs() > 1e-12).all()) == dense


@each_maker
@pytest.mark.parametrize("shape", [(16, 3), (2, 16, 5), (2, 3, 16, 1)])
def test_product_is_that_of_the_dense_matrix(make: Make, shape: tuple[int, ...]) -> None:
    matrix = randomised(make(dtype=torch.float64))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    np.testing.assert_allclose(to_numpy(matrix(x)), to_numpy(matrix.to_dense()) @ to_numpy(x), atol=1e-13)


@each_maker
@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 0, 16), (2, 3, 16)])
@pytest.mark.parametrize("transposed", [False, True])
def test_rotation_of_vectors_is_the_product_with_the_dense_matrix(
    make: Make, shape: tuple[int, ...], transposed: bool
) -> None:
    matrix = randomised(make(dtype=torch.float64))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q = to_numpy(matrix.to_dense())
    expected = to_numpy(x) @ (q if transposed else q.T)
    np.testing.assert_allclose(to_numpy(matrix.rotate(x, transposed=transposed)), expected, atol=1e-13)


def test_rotation_keeps_the_dtype_and_refuses_other_vectors() -> None:
    matrix = randomised(gsoft(16, 4))
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert matrix.rotate(x).dtype == torch.float64
    rotated = matrix.rotate(x.bfloat16())
    assert torch.equal(rotated, matrix.rotate(x.bfloat16().float()).bfloat16())
    with pytest.raises(ValueError, match=r"vectors of shape \(\.\.\., 16\), got \(16, 3\)"):
        matrix.rotate(x.mT)


@pytest.mark.slow
@each_maker
@pytest.mark.parametrize(("dtype", "rate"), [(torch.float32, 1e-2), (torch.float32, 1.0), (torch.float64, 1e-2)])
def test_orthogonal_after_a_thousand_steps(make: Make, dtype: torch.dtype, rate: float) -> None:
    matrix = randomised(make(dtype=dtype), 0.1)
    generator = torch.Generator().manual_seed(1)
    target = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=dtype)).Q
    optimizer = torch.optim.Adam(matrix.parameters(), lr=rate)
    first = float((matrix.to_dense().detach() - target).square().sum())
    for _ in range(1000):
        loss = (matrix.to_dense() - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(matrix.generators.detach().abs().max()) > 0.5
    if rate < 1:
        assert loss.item() < first
    q = matrix.to_dense().detach()
    tolerance = 10 * 16 * torch.finfo(dtype).eps
    np.testing.assert_allclose((q.mT @ q).numpy(), np.eye(16), rtol=0, atol=tolerance)
    assert (
        spectral_norm(to_numpy(q)) <= matrix.lipschitz_bound() * (1 + 4 * torch.finfo(dtype).eps) < 1 + 100 * tolerance
    )


@each_maker
def test_gradient(make: Make) -> None:
    matrix = randomised(make(dtype=torch.float64), 0.5)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def product(generators: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(matrix, {"generators": generators}, (x,))

    assert torch.autograd.gradcheck(product, (matrix.generators.detach().requires_grad_(),))


@each_maker
def test_the_upper_triangles_restore_every_bit(make: Make) -> None:
    matrix = randomised(make())
    copy = make()
    copy.set_upper_triangles(matrix.upper_triangles())
    assert matrix.upper_triangles().shape == (len(matrix.mixings), 4, 6)
    assert torch.equal(copy.to_dense(), matrix.to_dense())
    with pytest.raises(ValueError, match=r"must have shape .*, got \(1, 2\)"):
        copy.set_upper_triangles(torch.zeros(1, 2))
    assert torch.equal(copy.to_dense(), matrix.to_dense())


@each_maker
def test_the_norm_bound_of_blocks_that_were_rounded(make: Make) -> None:
    for seed in range(5):
        matrix = randomised(make(dtype=torch.float64), 3.0, seed)
        assert spectral_norm(to_numpy(matrix.to_dense())) <= matrix.lipschitz_bound() * (1 + 1e-15)
        assert 1 <= matrix.lipschitz_bound() <= 1 + 1e-12
        rounded = matrix.to(torch.bfloat16)
        exact = make(dtype=torch.float64)
        exact.blocks = rounded.blocks().double  # type: ignore[method-assign]
        assert 1 + 1e-6 < spectral_norm(to_numpy(exact.to_dense())) <= rounded.lipschitz_bound() < 1.2


def test_the_norm_bound_is_infinite_if_the_parameters_are_not_finite() -> None:
    matrix = gsoft(16, 4)
    with torch.no_grad():
        matrix.generators[0, 1, 0, 1] = math.nan
    assert matrix.lipschitz_bound() == math.inf


def test_autocast_leaves_the_blocks_alone() -> None:
    matrix = randomised(gsoft(16, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        blocks = matrix.blocks()
    assert torch.equal(blocks, matrix.blocks())


def test_settings_that_make_no_orthogonal_matrix_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be divisible by 8 \(block_size 8\), got 147"):
        gsoft(147, 8)
    with pytest.raises(ValueError, match="must be at least 1, got 16, 0"):
        gsoft(16, 0)
    with pytest.raises(ValueError, match=r"divisible by 16 \(block_size 4 times distance 4\), got 8"):
        boft(8, 4, 3)
    with pytest.raises(ValueError, match="block_size must be divisible by 2, the number of runs, got 3"):
        boft(12, 3, 2)
    for make in (boft, gsoft):
        with pytest.raises(ValueError, match="factors must be from 1 to 64, got 0"):
            make(16, 4, factors=0)
    with pytest.raises(ValueError, match=r"features must be divisible by 8 \(block_size 8\), got 147"):
        StructuredOrthogonal(147, 8, [ShufflePower(2)])
    with pytest.raises(ValueError, match="block_map must be one of 'cayley', 'exponential', got 'qr'"):
        oft(16, 4, "qr")
    with pytest.raises(ValueError, match="at least one factor, got no mixings"):
        StructuredOrthogonal(16, 4, [])
    for shape in [(16,), (4, 8, 3)]:
        with pytest.raises(ValueError, match=rf"shape \(\.\.\., 16, p\), got \({shape[0]},"):
            gsoft(16, 4)(torch.zeros(shape))


def test_the_repr_shows_the_settings() -> None:
    expected = "StructuredOrthogonal(16, block_size=4, mixings=[1/1, 4/4], block_map='cayley')"
    assert repr(StructuredOrthogonal(16, 4, [Mixing(), Mixing(4, 4)])) == expected
