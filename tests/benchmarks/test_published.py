"""The published layer that is measured against computes what lipnet's does."""

import pytest
import torch

from benchmarks.published import PublishedSOC
from lipnet.layers import SOC
from tests.settings import PUBLISHED, touch


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("settings", [{}, {"groups": 4}, {"stride": 2, "groups": 2}, {"kernel_size": 1}])
@pytest.mark.parametrize("training", [True, False])
def test_same_outputs_once_the_norms_have_converged(settings: dict[str, int], training: bool) -> None:
    torch.manual_seed(0)
    published, ours = PublishedSOC(8, 16, **settings), SOC(8, 16, **settings, **PUBLISHED)
    with torch.no_grad():
        published.weight.copy_(ours.weight)
        published.bias.copy_(ours.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        for _ in range(300):
            published(x)
            ours(x)
            touch(ours)
    torch.testing.assert_close(published.train(training)(x), ours.train(training)(x), rtol=1e-3, atol=1e-3)
