"""LOT against the polar factor of the whole matrix of the convolution, in SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from lipnet.layers import LOT
from tests.oracles import convolution_matrix, dense_jacobian

SIZES = [(4, 4), (3, 5), (1, 2), (2, 2), (6, 3)]


def random(layer: LOT) -> LOT:
    torch.manual_seed(0)
    nn.init.normal_(layer.weight)
    return layer


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3)])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (3, 5), (5, 2)])
def test_it_is_the_polar_factor_of_the_convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], size: tuple[int, int]
) -> None:
    layer = random(LOT(inputs, outputs, kernel, dtype=torch.float64)).eval()
    free = convolution_matrix(layer.weight, *size, 1, "circular")
    result = dense_jacobian(layer, torch.zeros(1, inputs, *size, dtype=torch.float64))
    np.testing.assert_allclose(result, scipy.linalg.polar(free)[0], rtol=0, atol=1e-10)


def test_few_steps_in_training_give_a_contraction_and_many_the_factor() -> None:
    layer = random(LOT(6, 6, train_steps=2, eval_steps=40, dtype=torch.float64))
    x = torch.zeros(1, 6, 4, 4, dtype=torch.float64)
    few = np.linalg.svd(dense_jacobian(layer, x), compute_uv=False)
    assert few.max() <= 1 + 1e-14
    assert few.min() < 0.9
    many = np.linalg.svd(dense_jacobian(layer.eval(), x), compute_uv=False)
    np.testing.assert_allclose(many, 1, rtol=0, atol=1e-10)


def test_square_layers_start_as_the_identity() -> None:
    layer = LOT(4, 4, groups=2).eval()
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(layer(x), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [{"train_steps": 0}, {"eval_steps": 0}])
def test_no_step_is_refused(steps: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"steps must be at least 1, got .* in training"):
        LOT(2, 2, **steps)
