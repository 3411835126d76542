"""Orthogonal updates of weights against dense matrices, and the compact states of updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnet.structured import (
    LowDisplacementRank,
    LowRank,
    OrthogonalUpdate,
    StackedUpdate,
    WeightUpdate,
    boft,
    gsoft,
    oft,
)
from tests.oracles import to_numpy


def randomised(update: WeightUpdate) -> WeightUpdate:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return update.double()


def random_weight(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def both_sides(scale: bool = True) -> OrthogonalUpdate:
    return OrthogonalUpdate(6, 8, output=gsoft(6, 2), input=boft(8, 2, 2), scale=scale)


def test_either_side_and_the_scale() -> None:
    update = both_sides()
    randomised(update)
    weight = random_weight(6, 8)
    assert update.output is not None
    assert update.input is not None
    q_u, q_v = to_numpy(update.output.to_dense()), to_numpy(update.input.to_dense())
    expected = np.diag(to_numpy(update.scale)) @ q_u @ to_numpy(weight) @ q_v.T
    np.testing.assert_allclose(to_numpy(update(weight)), expected, atol=1e-13)


def test_on_the_input_side_the_angles_between_neurons_stay() -> None:
    update = randomised(OrthogonalUpdate(6, 8, input=oft(8, 4)))
    weight = random_weight(6, 8)
    updated = update(weight)
    assert not torch.allclose(updated, weight)
    np.testing.assert_allclose(to_numpy(updated @ updated.mT), to_numpy(weight @ weight.mT), atol=1e-13)


def test_singular_values_stay_without_a_scale() -> None:
    update, weight = randomised(both_sides(scale=False)), random_weight(6, 8)
    before, after = (torch.linalg.svdvals(matrix) for matrix in (weight, update(weight)))
    np.testing.assert_allclose(to_numpy(after), to_numpy(before), atol=1e-13)


def test_it_starts_as_exactly_the_identity() -> None:
    weight = random_weight(6, 8).float()
    assert torch.equal(both_sides()(weight), weight)


def test_parts_are_updated_each_on_its_own() -> None:
    updates = [randomised(LowRank(4, 6, rank=2)), randomised(OrthogonalUpdate(2, 6, input=oft(6, 3)))]
    weight = random_weight(6, 6)
    expected = torch.cat([updates[0](weight[:4]), updates[1](weight[4:])])
    assert torch.equal(StackedUpdate(updates)(weight), expected)
    assert StackedUpdate(updates).shape == (6, 6)


def test_gradient() -> None:
    update, weight = randomised(both_sides()), random_weight(6, 8)
    names, values = zip(*update.named_parameters(), strict=True)
    parameters = tuple(value.detach().clone().requires_grad_() for value in values)

    def updated(*values: Tensor) -> Tensor:
        return torch.func.functional_call(update, dict(zip(names, values, strict=True)), (weight,))

    assert torch.autograd.gradcheck(updated, parameters)


def test_as_a_parametrization_of_torch() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    before, x = layer.weight.detach().clone(), torch.rand(3, 8)
    parametrize.register_parametrization(layer, "weight", both_sides())
    assert torch.equal(layer.weight, before)
    layer(x).sum().backward()
    parametrizations = layer.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    assert all(parameter.grad is not None for parameter in parametrizations.parameters())


def test_the_compact_state_restores_every_bit_from_the_upper_triangles() -> None:
    def build() -> StackedUpdate:
        return StackedUpdate([both_sides(), LowRank(4, 8, rank=2), LowDisplacementRank(3, 8)])

    update, other = randomised(build()).float(), build()
    state = update.compact_state()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "parts.0.scale": (6,),
        "parts.0.output.generators": (2, 3, 1),
        "parts.0.input.generators": (2, 4, 1),
        "parts.1.A": (2, 8),
        "parts.1.B": (4, 2),
        "parts.2.circulant": (1, 8),
        "parts.2.skew_circulant": (1, 8),
    }
    other.load_compact_state(state)
    weight = random_weight(13, 8).float()
    assert torch.equal(other(weight), update(weight))


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_another_compact_state_is_refused_and_changes_nothing(change: str) -> None:
    update = randomised(both_sides()).float()
    state, before = both_sides().compact_state(), [parameter.clone() for parameter in update.parameters()]
    if change == "missing":
        del state["scale"]
    elif change == "surplus":
        state["more"] = torch.zeros(1)
    else:
        state["scale"] = torch.ones(5)
    with pytest.raises(ValueError, match=r"state must consist of .*'scale': \(6,\).*, got"):
        update.load_compact_state(state)
    assert all(torch.equal(a, b) for a, b in zip(update.parameters(), before, strict=True))


def test_updates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a matrix on the output or the input side, got none"):
        OrthogonalUpdate(6, 8, scale=True)
    with pytest.raises(ValueError, match="the matrix on the output side needs 6 features, got 8"):
        OrthogonalUpdate(6, 8, output=oft(8, 2))
    with pytest.raises(ValueError, match="the matrix on the input side needs 8 features, got 6"):
        OrthogonalUpdate(6, 8, input=oft(6, 2))
    with pytest.raises(ValueError, match=r"one number of columns, got \[\(4, 6\), \(4, 8\)\]"):
        StackedUpdate([LowRank(4, 6), LowRank(4, 8)])
