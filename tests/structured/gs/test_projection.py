"""Algorithm 1 and Theorem 1 against singular values, other members, and descent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import shuffle_permutation
from lipnet.structured import GSMatrix, orthogonal_factors, project_gs
from tests.oracles import Matrix, permutation_matrix, to_numpy
from tests.structured.oracles import gs_dense, random_blocks, random_orthogonal, random_places

Shape = tuple[int, int, int]

SHAPES: list[tuple[Shape, Shape]] = [
    ((2, 3, 4), (4, 2, 5)),
    ((4, 2, 2), (4, 2, 2)),
    ((3, 4, 4), (4, 3, 3)),
    ((2, 2, 12), (3, 8, 3)),  # more paths than the blocks have singular values
    ((6, 5, 1), (2, 3, 2)),
    ((2, 8, 8), (2, 8, 8)),
]
SQUARE: list[tuple[Shape, Shape]] = [
    ((4, 2, 2), (4, 2, 2)),
    ((3, 4, 4), (4, 3, 3)),
    ((2, 8, 8), (2, 8, 8)),
    ((1, 6, 6), (6, 1, 1)),
    ((5, 5, 5), (5, 5, 5)),
]


def permutations(left: Shape, right: Shape, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """P, P_L, P_R."""
    sizes = (left[0] * left[2], left[0] * left[1], right[0] * right[2])
    inner, outputs, inputs = (random_places(size, seed + index) for index, size in enumerate(sizes))
    return inner, outputs, inputs


def inner_blocks(matrix: Tensor, left: Shape, right: Shape, places: tuple[Tensor, Tensor, Tensor]) -> Matrix:
    """The blocks (k_L, k_R, b_L^1, b_R^2) of P_L^T A P_R^T, by dense products."""
    P_L, P_R = (permutation_matrix(outer.tolist()) for outer in places[1:])
    inner = P_L.T @ to_numpy(matrix) @ P_R.T
    return inner.reshape(left[0], left[1], right[0], right[2]).swapaxes(1, 2)


def distance(matrix: Tensor, A: GSMatrix) -> float:
    return float(np.linalg.norm(to_numpy(matrix) - gs_dense(A.blocks, A.permutations)))


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_projection_of_a_member_is_the_member(left: Shape, right: Shape) -> None:
    places = permutations(left, right)
    member = GSMatrix(random_blocks(*left), random_blocks(*right, seed=1), *places).to_dense()
    projected = project_gs(member, left, right, *places)
    assert distance(member, projected) <= 1e-12 * float(member.norm())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_squared_error_is_the_sum_of_the_squares_left_out(left: Shape, right: Shape, seed: int) -> None:
    places = permutations(left, right, seed)
    matrix = random_blocks(left[0] * left[1], right[0] * right[2], seed=seed)
    projected = project_gs(matrix, left, right, *places)
    ranks = projected.block_ranks().numpy()
    values = np.linalg.svd(inner_blocks(matrix, left, right, places), compute_uv=False)
    left_out = values[np.arange(values.shape[-1]) >= ranks[:, :, None]]
    assert distance(matrix, projected) ** 2 == pytest.approx(np.square(left_out).sum(), rel=1e-12, abs=1e-24)


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_no_random_member_is_nearer(left: Shape, right: Shape) -> None:
    places = permutations(left, right)
    matrix = random_blocks(left[0] * left[1], right[0] * right[2], seed=5)
    projected = project_gs(matrix, left, right, *places)
    least = distance(matrix, projected)
    for seed in range(100):
        # Far ones, brought to the best length; and near ones.
        member = GSMatrix(random_blocks(*left, seed=seed), random_blocks(*right, seed=1000 + seed), *places)
        dense = member.to_dense()
        scale = float((dense * matrix).sum() / dense.square().sum())
        assert float((scale * dense - matrix).norm()) >= least
        noise = [10 ** -(1 + seed % 8) * random_blocks(*factor.shape, seed=seed) for factor in projected.blocks]
        near = projected.with_blocks([factor + more for factor, more in zip(projected.blocks, noise, strict=True)])
        assert distance(matrix, near) >= least * (1 - 1e-14)


def descend(A: GSMatrix, matrix: Tensor) -> float:
    """The distance after quasi-Newton steps on the blocks."""
    blocks = [factor.clone().requires_grad_() for factor in A.blocks]
    optimizer = torch.optim.LBFGS(
        blocks, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (A.with_blocks(blocks).to_dense() - matrix).square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return loss().item() ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_descent_finds_nothing_nearer_and_from_elsewhere_the_same(left: Shape, right: Shape) -> None:
    places = permutations(left, right)
    matrix = random_blocks(left[0] * left[1], right[0] * right[2], seed=5)
    projected = project_gs(matrix, left, right, *places)
    least = distance(matrix, projected)
    assert descend(projected, matrix) == pytest.approx(least, rel=1e-10, abs=1e-6)
    elsewhere = GSMatrix(random_blocks(*left, seed=7), random_blocks(*right, seed=8), *places)
    assert descend(elsewhere, matrix) == pytest.approx(least, rel=1e-6, abs=1e-6)


def test_projection_onto_block_diagonal_matrices_keeps_the_blocks() -> None:
    matrix = random_blocks(6, 6)
    projected = project_gs(matrix, (2, 3, 3), (2, 3, 3), None).to_dense()
    kept = torch.block_diag(matrix[:3, :3], matrix[3:, 3:])
    torch.testing.assert_close(projected, kept, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_projection_keeps_the_dtype_and_takes_degenerate_matrices(dtype: torch.dtype) -> None:
    shuffle = shuffle_permutation(16, 4)
    for matrix in (torch.zeros(16, 16), torch.ones(16, 16), torch.eye(16)):
        projected = project_gs(matrix.to(dtype), (4, 4, 4), (4, 4, 4), shuffle)
        assert projected.dtype == dtype
        assert projected.to_dense().isfinite().all()
    assert distance(torch.ones(16, 16), project_gs(torch.ones(16, 16, dtype=dtype), (4, 4, 4), (4, 4, 4), shuffle)) < 1


def test_projection_gives_no_gradients() -> None:
    matrix = random_blocks(8, 8).requires_grad_()
    assert not project_gs(matrix, (4, 2, 2), (4, 2, 2), shuffle_permutation(8, 4)).to_dense().requires_grad


@pytest.mark.parametrize("function", [project_gs, orthogonal_factors])
def test_what_is_no_matrix_of_the_shape_is_refused(function: Callable[..., GSMatrix]) -> None:
    shape, shuffle = (4, 2, 2), shuffle_permutation(8, 4)
    with pytest.raises(ValueError, match=r"need a floating matrix of shape \(8, 8\), got torch.float32, \(8, 6\)"):
        function(torch.zeros(8, 6), shape, shape, shuffle)
    with pytest.raises(ValueError, match=r"need a floating matrix .* got torch.int64"):
        function(torch.eye(8).long(), shape, shape, shuffle)
    with pytest.raises(ValueError, match="matrix must be finite"):
        function(torch.full((8, 8), torch.nan), shape, shape, shuffle)
    with pytest.raises(ValueError, match=r"columns of L must be as many as the rows of R, got .*= 8 .* = 6"):
        function(torch.eye(8), shape, (3, 2, 2), shuffle)
    with pytest.raises(ValueError, match=r"permutation must be int64 of shape \(8,\)"):
        function(torch.eye(8), shape, shape, torch.arange(4))
    for name in ("left_permutation", "right_permutation"):
        with pytest.raises(ValueError, match=f"{name} must hold every number from 0 to 7 once"):
            function(torch.eye(8), shape, shape, shuffle, **{name: torch.zeros(8, dtype=torch.int64)})


def orthogonality(blocks: Tensor) -> float:
    """The largest deviation of B^T B from I in the Frobenius norm."""
    dense = to_numpy(blocks)
    return float(np.linalg.norm(dense.swapaxes(1, 2) @ dense - np.eye(dense.shape[1]), axis=(1, 2)).max())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("left", "right"), SQUARE)
def test_orthogonal_members_have_orthogonal_factors(left: Shape, right: Shape, seed: int) -> None:
    places = permutations(left, right, seed)
    A = GSMatrix(random_orthogonal(*left, seed=seed), random_orthogonal(*right, seed=9 + seed), *places)
    factors = orthogonal_factors(A.to_dense(), left, right, *places)
    assert orthogonality(factors.left) < 1e-13
    assert orthogonality(factors.right) < 1e-13
    assert distance(A.to_dense(), factors) < 1e-12


@pytest.mark.parametrize(("left", "right"), SQUARE)
def test_members_written_with_factors_that_are_not_orthogonal(left: Shape, right: Shape) -> None:
    """Paths through the same two blocks allow any change of basis: L C and C^{-1} R."""
    places = permutations(left, right)
    L, R = random_orthogonal(*left), random_orthogonal(*right, seed=9)
    scales = 0.5 + random_blocks(left[0] * left[2], seed=3).abs()
    inner = places[0]
    skewed_left = L * scales.view(left[0], 1, left[2])
    skewed_right = R / scales[inner].view(right[0], right[1], 1)
    assert orthogonality(skewed_left) > 0.1
    matrix = GSMatrix(skewed_left, skewed_right, *places).to_dense()
    np.testing.assert_allclose(matrix.numpy(), GSMatrix(L, R, *places).to_dense().numpy(), atol=1e-12)
    factors = orthogonal_factors(matrix, left, right, *places)
    assert max(orthogonality(factors.left), orthogonality(factors.right)) < 1e-13
    assert distance(matrix, factors) < 1e-11


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_degenerate_members(scale: float) -> None:
    """Identity, permutations and reflections, in whose blocks all singular values are equal or zero."""
    shape, shuffle = (4, 4, 4), shuffle_permutation(16, 4)
    eye = torch.eye(4, dtype=torch.float64).expand(shape)
    flipped = eye.flip(-1) * scale
    for left, right in ((eye, eye), (flipped, eye), (flipped, flipped), (eye, scale * eye)):
        matrix = GSMatrix(left, right, shuffle).to_dense()
        factors = orthogonal_factors(matrix, shape, shape, shuffle)
        assert max(orthogonality(factors.left), orthogonality(factors.right)) < 1e-14
        assert distance(matrix, factors) < 1e-14
    whole = torch.eye(16, dtype=torch.float64) * scale
    assert distance(whole, orthogonal_factors(whole, shape, shape, None)) < 1e-14


@pytest.mark.parametrize("noise", [1e-12, 1e-8, 1e-4, 1e-2])
def test_blocks_are_orthogonal_however_far_from_it_the_matrix_is(noise: float) -> None:
    left, right = SQUARE[4]
    places = permutations(left, right)
    exact = GSMatrix(random_orthogonal(*left), random_orthogonal(*right, seed=9), *places).to_dense()
    error = random_blocks(25, 25, seed=4)
    matrix = exact + noise * error / error.norm()
    factors = orthogonal_factors(matrix, left, right, *places, tolerance=10 * noise)
    assert max(orthogonality(factors.left), orthogonality(factors.right)) < 1e-13
    assert distance(matrix, factors) < 3 * noise


def test_factors_of_a_float32_matrix_are_orthogonal_in_float32() -> None:
    left, right = SQUARE[2]
    places = permutations(left, right)
    A = GSMatrix(random_orthogonal(*left), random_orthogonal(*right, seed=9), *places).to(torch.float32)
    factors = orthogonal_factors(A.to_dense(), left, right, *places)
    assert factors.dtype == torch.float32
    eps = torch.finfo(torch.float32).eps
    assert max(orthogonality(factors.left), orthogonality(factors.right)) < 8 * eps
    assert distance(A.to_dense(), factors) < 16 * eps


def test_matrices_that_are_not_orthogonal_are_refused_with_the_deviation() -> None:
    shape, shuffle = (4, 4, 4), shuffle_permutation(16, 4)
    with pytest.raises(ValueError, match=r"not orthogonal: \|\|A\^T A - I\|\|_F is 12, more than 3.55e-14"):
        orthogonal_factors(2 * torch.eye(16, dtype=torch.float64), shape, shape, shuffle)
    near = torch.eye(16, dtype=torch.float64)
    near[0, 0] += 1e-9
    with pytest.raises(ValueError, match=r"not orthogonal: .* is 2e-09, more than"):
        orthogonal_factors(near, shape, shape, None)
    assert orthogonal_factors(near, shape, shape, None, tolerance=1e-8).shape == (16, 16)


def test_orthogonal_matrices_of_other_classes_are_refused_with_the_distance() -> None:
    shape, shuffle = (4, 4, 4), shuffle_permutation(16, 4)
    matrix = random_orthogonal(1, 16, 16)[0]
    projected = project_gs(matrix, shape, shape, shuffle)
    with pytest.raises(ValueError, match=rf"not of this class: .* is {distance(matrix, projected):.3g}, more than"):
        orthogonal_factors(matrix, shape, shape, shuffle)


def test_blocks_that_are_not_square_are_refused() -> None:
    """The rotation by 45 degrees is a member, but of no factors with unit rows and columns.

    Its entries are products of one number of L and one of R, each used once, whose squares would sum to 2 and 2: by
    Cauchy and Schwarz the absolute entries would sum to 2 at most.
    """
    rotation = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / 2**0.5
    assert rotation.abs().sum() > 2
    left, right, shuffle = (2, 1, 2), (2, 2, 1), shuffle_permutation(4, 2)
    assert distance(rotation, project_gs(rotation, left, right, shuffle)) < 1e-15
    with pytest.raises(ValueError, match=r"square blocks, got left \(2, 1, 2\), right \(2, 2, 1\)"):
        orthogonal_factors(rotation, left, right, shuffle)


def test_tolerances_that_tell_nothing_are_refused() -> None:
    matrix = torch.eye(16)
    for tolerance in (0.0, -1.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match=r"above 0 and below 1/2, got"):
            orthogonal_factors(matrix, (4, 4, 4), (4, 4, 4), None, tolerance=tolerance)
    with pytest.raises(ValueError, match=r"got 1.25 \(10 n eps of torch.bfloat16\)"):
        orthogonal_factors(matrix.bfloat16(), (4, 4, 4), (4, 4, 4), None)
