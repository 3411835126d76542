"""The definition of SOC against matrices of NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lipnet.functional
from lipnet.functional import reference
from tests.oracles import convolution_matrix, exponential, to_numpy


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize("groups", [1, 2])
def test_soc_is_the_exponential_of_the_skew_convolution(groups: int, padding_mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, 3, 5, generator=generator, dtype=torch.float64) / 4
    x = torch.randn(2, 4, 4, 5, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.5, 0.8], dtype=torch.float64)[:groups]
    skew = reference.skew_filter(weight, groups)
    assert torch.equal(skew, lipnet.functional.skew_filter(weight, groups))
    scaled = skew * scale.repeat_interleave(4 // groups).view(-1, 1, 1, 1)
    jacobian = convolution_matrix(scaled, 4, 5, groups, padding_mode)
    np.testing.assert_allclose(jacobian, -jacobian.T, rtol=0, atol=1e-15)
    result = reference.soc(x, weight, 30, groups, padding_mode, scale)
    expected = to_numpy(x.flatten(1)) @ exponential(jacobian).T
    np.testing.assert_allclose(to_numpy(result.flatten(1)), expected, rtol=0, atol=1e-12)


def test_low_degrees() -> None:
    x, weight = torch.randn(1, 2, 3, 3), torch.randn(2, 2, 3, 3)
    skew = reference.skew_filter(weight)
    image = lipnet.functional.same_convolution(x, skew)
    torch.testing.assert_close(reference.soc(x, weight, 1), x + image)
    torch.testing.assert_close(reference.polynomial(x, skew, (2.0, -3.0)), 2 * x - 3 * image)


def test_a_scale_that_is_a_number_has_the_precision_of_the_weight() -> None:
    x, weight = torch.randn(1, 2, 3, 3, dtype=torch.float64), torch.randn(2, 2, 3, 3, dtype=torch.float64)
    expected = reference.soc(x, 0.1 * weight, 3)
    torch.testing.assert_close(reference.soc(x, weight, 3, scale=0.1), expected, rtol=0, atol=1e-13)
