"""Cholesky (CHORD) and Sandwich against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from lipnet.layers import Cholesky, Sandwich
from tests.oracles import Matrix, dense_jacobian, spectral_norm, to_numpy

SHAPES = [(6, 4), (4, 6), (5, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_cholesky_is_its_formula(shape: tuple[int, int]) -> None:
    layer = Cholesky(*shape, dtype=torch.float64).eval()
    nn.init.normal_(layer.weight)
    weight = to_numpy(layer.weight)
    wide = weight if len(weight) <= len(weight.T) else weight.T
    gram = wide @ wide.T
    lower = np.linalg.cholesky(gram + 1e-6 * np.linalg.norm(gram) * np.eye(len(gram)))
    rows = scipy.linalg.solve_triangular(lower, wide, lower=True)
    matrix = rows if wide is weight else rows.T
    x = torch.randn(3, shape[0], dtype=torch.float64)
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(x) @ matrix.T + to_numpy(layer.bias), atol=1e-12)
    assert spectral_norm(matrix) <= layer.lipschitz_bound() <= 1
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), 1, atol=0.05)


def test_cholesky_of_a_matrix_without_full_rank_is_a_contraction() -> None:
    layer = Cholesky(8, 6)
    nn.init.ones_(layer.weight)
    for training in (True, False):
        assert 0.9 < layer.train(training).lipschitz_bound() <= 1


def sandwich_matrices(layer: Sandwich) -> tuple[Matrix, Matrix]:
    """A and B by the published Cayley transform, with plain inverses."""
    scaled = to_numpy(layer.scale) * to_numpy(layer.weight) / np.linalg.norm(to_numpy(layer.weight))
    upper, lower = np.split(scaled, [layer.out_features])
    skew = upper - upper.T + lower.T @ lower
    identity = np.eye(layer.out_features)
    inverse = np.linalg.inv(identity + skew)
    return (inverse @ (identity - skew)).T, (-2 * lower @ inverse).T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_sandwich_is_its_formula(shape: tuple[int, int], scale: float) -> None:
    layer = Sandwich(*shape, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.scale.mul_(scale)
    nn.init.normal_(layer.log_psi)
    after, before = sandwich_matrices(layer)
    np.testing.assert_allclose(after @ after.T + before @ before.T, np.eye(shape[1]), atol=1e-12)
    psi, bias = np.exp(to_numpy(layer.log_psi)), to_numpy(layer.hidden_bias)
    x = torch.randn(3, shape[0], dtype=torch.float64)
    hidden = np.maximum(2**0.5 * to_numpy(x) @ before.T / psi + bias / psi * psi, 0)
    expected = 2**0.5 * hidden * psi @ after
    np.testing.assert_allclose(to_numpy(layer(x)), expected, atol=1e-12)
    assert 1 <= layer.lipschitz_bound() <= 1 + 1e-8


def test_sandwich_reaches_its_bound() -> None:
    """With one feature, A = B = 1 / sqrt(2) makes 2 A B = 1 where the relu is active."""
    layer = Sandwich(1, 1, dtype=torch.float64)
    quarter = torch.full((1, 1), 0.5**0.5, dtype=torch.float64)
    operands = (2**0.5 * quarter, 2**0.5 * quarter)
    jacobian = dense_jacobian(lambda x: layer.apply_operands(x, operands), torch.ones(1, 1, 1, 1, dtype=torch.float64))
    assert spectral_norm(jacobian) == pytest.approx(1)
    assert layer.bound_operands(operands) == pytest.approx(1)
    assert layer.bound_operands((2 * operands[0], operands[1])) == pytest.approx(2.5)


def test_the_operands_of_sandwich_are_differentiable() -> None:
    layer = Sandwich(3, 2, dtype=torch.float64)
    weights = tuple(each.detach().clone().requires_grad_() for each in layer.weights())
    assert torch.autograd.gradcheck(lambda *each: layer.compute_operands(*each, size=(1, 1)), weights)
