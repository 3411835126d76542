"""Products of block-diagonal factors and permutations against their dense matrices."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import shuffle_permutation
from lipnet.structured import GSMatrix, HigherOrderGS
from tests.structured.oracles import gs_dense, random_blocks, random_places

# Blocks of each factor in the order in which they act, square and rectangular.
SHAPES = [
    [(3, 2, 2)],
    [(1, 5, 3)],
    [(6, 2, 2), (4, 3, 3)],
    [(2, 6, 3), (4, 1, 3)],
    [(4, 2, 3), (2, 5, 4), (5, 4, 2)],
    [(8, 2, 2), (4, 4, 4), (2, 8, 8), (1, 16, 16)],
]


def example(shapes: list[tuple[int, int, int]], *, permuted: bool = True) -> HigherOrderGS:
    blocks = [random_blocks(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    sizes = [blocks[0].shape[0] * blocks[0].shape[2], *(factor.shape[0] * factor.shape[1] for factor in blocks)]
    places = [random_places(size, seed) if permuted else None for seed, size in enumerate(sizes)]
    return HigherOrderGS(blocks, places)


@pytest.mark.parametrize("permuted", [True, False])
@pytest.mark.parametrize("shapes", SHAPES)
def test_dense_matrix_and_products(shapes: list[tuple[int, int, int]], permuted: bool) -> None:
    A = example(shapes, permuted=permuted)
    dense = gs_dense(A.blocks, A.permutations)
    assert A.shape == dense.shape
    np.testing.assert_allclose(A.to_dense().numpy(), dense, atol=1e-12)
    x = random_blocks(2, 7, A.shape[1], seed=9)
    np.testing.assert_allclose(A(x).numpy(), x.numpy() @ dense.T, atol=1e-12)
    columns = x.mT.contiguous()
    np.testing.assert_allclose((A @ columns).numpy(), dense @ columns.numpy(), atol=1e-12)
    np.testing.assert_allclose((A @ x[0, 0]).numpy(), dense @ x[0, 0].numpy(), atol=1e-12)
    assert torch.equal(A.matmul(columns), A @ columns)
    rows = random_blocks(3, A.shape[0], seed=8)
    np.testing.assert_allclose((rows @ A).numpy(), rows.numpy() @ dense, atol=1e-12)
    np.testing.assert_allclose((rows[0] @ A).numpy(), rows[0].numpy() @ dense, atol=1e-12)


@pytest.mark.parametrize("shapes", SHAPES)
def test_transposition(shapes: list[tuple[int, int, int]]) -> None:
    A = example(shapes)
    dense = gs_dense(A.blocks, A.permutations)
    np.testing.assert_allclose(A.T.to_dense().numpy(), dense.T, atol=1e-12)
    np.testing.assert_allclose(gs_dense(A.T.blocks, A.T.permutations), dense.T, atol=1e-12)
    assert torch.equal(A.T.T.to_dense(), A.to_dense())
    assert A.T.shape == (A.shape[1], A.shape[0])
    assert A.transpose().num_parameters == A.num_parameters


@pytest.mark.parametrize("shapes", SHAPES)
def test_counts(shapes: list[tuple[int, int, int]]) -> None:
    A = example(shapes)
    assert A.num_parameters == sum(k * rows * columns for k, rows, columns in shapes)
    # A multiplication and an addition at each non-zero of each dense factor.
    factors = [HigherOrderGS([torch.ones_like(factor)], [None, None]).to_dense() for factor in A.blocks]
    assert A.flops == 2 * sum(int(factor.sum()) for factor in factors)


@pytest.mark.parametrize("shapes", SHAPES)
def test_support(shapes: list[tuple[int, int, int]]) -> None:
    A = example(shapes)
    support = A.support()
    assert support.dtype == torch.bool
    # Random blocks cancel nowhere, and blocks of zeros have the same support.
    np.testing.assert_array_equal(support.numpy(), gs_dense(A.blocks, A.permutations) != 0)
    assert torch.equal(A.with_blocks([torch.zeros_like(factor) for factor in A.blocks]).support(), support)


def test_gradients_reach_the_input_and_every_block() -> None:
    A = example([(4, 2, 3), (2, 5, 4), (5, 4, 2)])
    blocks = [factor.requires_grad_() for factor in A.blocks]
    x = random_blocks(2, 12, seed=9).requires_grad_()

    def applied(x: Tensor, *blocks: Tensor) -> Tensor:
        return A.with_blocks(blocks)(x)

    def transposed(x: Tensor, *blocks: Tensor) -> Tensor:
        return x @ A.with_blocks(blocks).T.to_dense()

    assert torch.autograd.gradcheck(applied, (x, *blocks))
    assert torch.autograd.gradcheck(transposed, (x, *blocks))


def test_blocks_can_be_trained() -> None:
    target = example([(3, 4, 4), (4, 3, 3)])
    parameters = [torch.nn.Parameter(random_blocks(*factor.shape, seed=7)) for factor in target.blocks]
    A = HigherOrderGS(parameters, target.permutations)
    assert all(mine is given for mine, given in zip(A.blocks, parameters, strict=True))
    optimizer = torch.optim.LBFGS(parameters, max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (A.to_dense() - target.to_dense()).square().sum()
        value.backward()
        return value

    before = loss().item()
    optimizer.step(loss)  # type: ignore[arg-type]
    assert loss().item() < 1e-8 * before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_moves_to_another_dtype(dtype: torch.dtype) -> None:
    A = example(SHAPES[4]).to(dtype)
    assert A.dtype == A.to_dense().dtype == A(torch.ones(3, 12, dtype=dtype)).dtype == dtype
    error = np.abs(A.to_dense().double().numpy() - gs_dense(A.blocks, A.permutations)).max()
    assert error <= 20 * torch.finfo(dtype).eps * np.abs(gs_dense(A.blocks, A.permutations)).max()


def test_moves_to_another_device() -> None:
    A = example(SHAPES[4]).to("meta")
    assert A.device == torch.device("meta")
    assert {places.device for places in A.permutations if places is not None} == {A.device}
    assert A(torch.zeros(3, 12, dtype=torch.float64, device="meta")).shape == (3, 20)


def test_permutations_join_the_blocks_on_their_device() -> None:
    blocks = torch.empty(2, 2, 2, device="meta")
    assert GSMatrix(blocks, blocks, None).to_dense().device == blocks.device


def test_other_blocks_between_the_same_permutations() -> None:
    A = example(SHAPES[4])
    others = [random_blocks(*factor.shape, seed=20 + seed) for seed, factor in enumerate(A.blocks)]
    before = A.to_dense()
    np.testing.assert_allclose(A.with_blocks(others).to_dense().numpy(), gs_dense(others, A.permutations), atol=1e-12)
    assert torch.equal(A.to_dense(), before)
    with pytest.raises(ValueError, match=r"blocks must have shapes .*, got \[\(4, 2, 3\)\]"):
        A.with_blocks(others[:1])
    with pytest.raises(ValueError, match="floating"):
        A.to(torch.int64)


def test_copies_and_pickles() -> None:
    A = example(SHAPES[4])
    for twin in (copy.deepcopy(A), pickle.loads(pickle.dumps(A))):
        assert torch.equal(twin.to_dense(), A.to_dense())
    twin.blocks[0].zero_()
    assert A.blocks[0].abs().sum() > 0


def test_a_change_of_the_permutation_given_changes_nothing() -> None:
    places = random_places(8)
    A = HigherOrderGS([random_blocks(4, 2, 2)], [places, None])
    before = A.to_dense()
    places.zero_()
    assert torch.equal(A.to_dense(), before)
    assert torch.equal(A.T.T.to_dense(), before)
    np.testing.assert_allclose(gs_dense(A.blocks, A.permutations), before.numpy(), atol=1e-12)


def test_an_empty_batch_and_autocast() -> None:
    A = example(SHAPES[4]).to(torch.float32)
    assert A(torch.zeros(0, 12)).shape == (0, 20)
    assert (A @ torch.zeros(12, 0)).shape == (20, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert A(torch.ones(2, 12)).dtype == torch.bfloat16


def test_it_says_what_it_is() -> None:
    assert repr(example(SHAPES[3])) == "HigherOrderGS(4 x 6: 2 of 6 x 3, 4 of 1 x 3)"


def test_inputs_of_another_shape_are_refused() -> None:
    A = example(SHAPES[4])
    for shape in ((12, 3), (11,), ()):
        with pytest.raises(ValueError, match=r"A\(x\) needs x of shape \(\.\.\., 12\), got"):
            A(torch.zeros(shape, dtype=torch.float64))
    for shape in ((3, 12), (11,), ()):
        with pytest.raises(ValueError, match=r"A @ x needs x of shape \(12,\) or \(\.\.\., 12, p\), got"):
            A @ torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"needs x of shape \(\.\.\., 20\)"):
        torch.zeros(3, 12, dtype=torch.float64) @ A


def test_factors_that_do_not_fit_are_refused() -> None:
    square = torch.zeros(4, 2, 2)
    with pytest.raises(ValueError, match="at least one factor, got none"):
        HigherOrderGS([], [None])
    with pytest.raises(ValueError, match="2 factors need 3 permutations, got 2"):
        HigherOrderGS([square, square], [None, None])
    with pytest.raises(ValueError, match=r"blocks\[1\] takes 6 entries, but blocks\[0\] gives 8"):
        HigherOrderGS([square, torch.zeros(2, 3, 3)], [None] * 3)
    with pytest.raises(ValueError, match=r"blocks\[0\] must be floating of shape .* torch.float32, \(4, 2\)"):
        HigherOrderGS([square[0].repeat(2, 1), square], [None] * 3)
    with pytest.raises(ValueError, match=r"blocks\[1\] must be floating of shape .* torch.int64"):
        HigherOrderGS([square, square.long()], [None] * 3)
    with pytest.raises(ValueError, match=r"blocks\[0\] must be floating .*\(0, 2, 2\)"):
        HigherOrderGS([square[:0]], [None] * 2)
    with pytest.raises(ValueError, match=r"one dtype and device, got .*float32.*float64"):
        HigherOrderGS([square, square.double()], [None] * 3)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_permutations_of_another_size_are_refused(number: int) -> None:
    places: list[Tensor | None] = [None] * 3
    places[number] = shuffle_permutation(6, 2)
    with pytest.raises(ValueError, match=rf"permutations\[{number}\] must be int64 of shape \(8,\)"):
        HigherOrderGS([torch.zeros(4, 2, 2)] * 2, places)
