"""Projections onto additive structures: members stay, and nothing is nearer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.structured import AdditiveUpdate, project_circulant, project_kronecker, project_toeplitz
from tests.oracles import to_numpy

Project = Callable[[Tensor], AdditiveUpdate]
CASES: list[tuple[Project, tuple[int, int]]] = [
    *((project, shape) for project in (project_circulant, project_toeplitz) for shape in [(6, 6), (4, 7), (7, 4)]),
    *((project_circulant, shape) for shape in [(1, 5), (5, 1), (1, 1)]),
    (project_kronecker, (6, 8)),
    (partial(project_kronecker, left_shape=(3, 4)), (6, 8)),
    (partial(project_kronecker, left_shape=(1, 8)), (5, 8)),
]
each_case = pytest.mark.parametrize(("project", "shape"), CASES)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(update: AdditiveUpdate) -> AdditiveUpdate:
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.copy_(random(*parameter.shape, seed=1))
    return update


@each_case
def test_members_are_their_own_projections(project: Project, shape: tuple[int, int]) -> None:
    member = randomised(project(random(*shape))).to_dense().detach()
    np.testing.assert_allclose(to_numpy(project(member).to_dense()), to_numpy(member), atol=1e-12)


@each_case
def test_no_member_is_nearer(project: Project, shape: tuple[int, int]) -> None:
    """The residual is orthogonal to the tangent space, and a long descent from elsewhere finds nothing nearer."""
    matrix = random(*shape)
    nearest = project(matrix)
    loss = (nearest.to_dense() - matrix).square().sum()
    gradients = torch.autograd.grad(loss, list(nearest.parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-12
    other = randomised(project(matrix))
    optimizer = torch.optim.LBFGS(other.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        distance = (other.to_dense() - matrix).square().sum()
        distance.backward()
        return distance

    optimizer.step(closure)
    assert float(closure().detach()) >= float(loss.detach()) - 1e-9


def test_the_distance_to_a_kronecker_product_is_the_singular_values_left_out() -> None:
    matrix = random(6, 8)
    blocks = np.array(
        [to_numpy(matrix)[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel() for i in range(3) for j in range(4)]
    )
    left_out = np.linalg.svd(blocks, compute_uv=False)[1:]
    distance = (project_kronecker(matrix, left_shape=(3, 4)).to_dense() - matrix).detach().norm()
    assert float(distance) == pytest.approx(float(np.linalg.norm(left_out)))


@pytest.mark.parametrize("project", [project_circulant, project_toeplitz, project_kronecker])
def test_the_dtype_stays_and_other_matrices_are_refused(project: Project) -> None:
    assert project(random(4, 4).float()).to_dense().dtype == torch.float32
    for wrong in (torch.eye(4).long(), torch.zeros(4), torch.zeros(2, 4, 4)):
        with pytest.raises(ValueError, match=r"matrix must be floating, \(rows, columns\), got"):
            project(wrong)
    with pytest.raises(ValueError, match="matrix must be finite, got NaN or infinity"):
        project(torch.full((4, 4), torch.nan))
