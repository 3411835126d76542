"""Frequency responses against dense circular convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.functional import skew_filter
from lipnet.functional.frequency import frequency_response
from tests.oracles import convolution_matrix


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (3, 1), (1, 3), (3, 5)])
def test_frequency_responses_are_the_circular_convolution(kernel: tuple[int, int], groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = skew_filter(torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64), groups)
    for size in ((2, 3), (5, 4)):
        x = np.random.default_rng(0).standard_normal((4, *size))
        matrix = convolution_matrix(weight, *size, groups, "circular")
        expected = np.fft.rfft2((matrix @ x.ravel()).reshape(x.shape))
        response = frequency_response(weight, size, groups).numpy()
        spectrum = np.fft.rfft2(x).reshape(groups, 4 // groups, size[0], -1)
        result = np.einsum("pqgoi,gipq->gopq", response, spectrum).reshape(expected.shape)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11)
