"""Networks with closed-form radii: certified radii are at most a millionth below them, and never above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import certify
from lipnet.layers import GSSOC, SOC, ChannelShuffle, Normalize, NormalizedLinear, SOCLinear, SOCTranspose

CLASSES, COUNT = 5, 60
Maker = Callable[[], list[nn.Module]]


def images(*shape: int) -> Tensor:
    return torch.rand((COUNT, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_radii(model: nn.Module, x: Tensor) -> np.ndarray:
    """The distance of each image to the nearest boundary of an affine classifier, from its matrix."""
    with torch.no_grad():
        offset = model(torch.zeros_like(x[:1]))
        units = torch.eye(x[0].numel(), dtype=torch.float64).view(-1, *x.shape[1:])
        matrix = (model(units) - offset).numpy().T
        logits = model(x).numpy()
    radii = []
    for scores in logits:
        y = int(scores.argmax())
        others = [j for j in range(len(scores)) if j != y]
        radii.append(min((scores[y] - scores[j]) / np.linalg.norm(matrix[y] - matrix[j]) for j in others))
    return np.array(radii)


def assert_exact(model: nn.Module, x: Tensor) -> None:
    model = model.double()
    exact = exact_radii(model, x)
    certified = certify(model, x, torch.zeros(len(x), dtype=torch.int64)).radius.numpy()
    # Radii below this are rounding errors of the logits; there are none here.
    assert exact.min() > 1e-6
    # The closed form is computed in float64 too: its last digits are no more exact than those of the radius.
    assert (certified <= exact * (1 + 1e-12)).all()
    assert (certified >= exact * (1 - 1e-6)).all()


EXACT: dict[str, Any] = {"eval_tolerance": 1e-12, "dtype": torch.float64}
# Orthogonal, and onto: every direction of the features is one of the pixels, and nothing is lost between the two.
FEATURES: dict[str, Maker] = {
    "none": list,
    "normalisation": lambda: [Normalize([0.5, 0.4], 0.25)],
    "soc": lambda: [SOC(2, 2, **EXACT)],
    "soc by the series": lambda: [SOC(2, 2, engine="series", **EXACT)],
    "circular soc": lambda: [SOC(2, 2, padding_mode="circular", **EXACT)],
    "spectral soc": lambda: [SOC(2, 2, padding_mode="circular", engine="spectral", **EXACT)],
    "strided soc": lambda: [Normalize([0.5, 0.4], 0.3), SOC(2, 8, stride=2, **EXACT)],
    "gs-soc": lambda: [SOC(2, 2, **EXACT), GSSOC(2, 2, groups=(2, 1), paired=False, **EXACT)],
    "there and back": lambda: [SOC(2, 8, stride=2, **EXACT), SOCTranspose(8, 2, stride=2, **EXACT)],
    "torch's permutations": lambda: [nn.PixelUnshuffle(2), ChannelShuffle(2), nn.ChannelShuffle(4), nn.Identity()],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FEATURES)
def test_normalised_rows_behind_an_isometry(name: str, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = nn.Sequential(*FEATURES[name](), nn.Flatten())
        width = features(torch.zeros(1, 2, 4, 4, dtype=torch.float64)).shape[1]
        model = nn.Sequential(features, NormalizedLinear(width, CLASSES, dtype=torch.float64)).eval()
    assert_exact(model, images(2, 4, 4))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", ["none", "normalisation", "soc", "strided soc"])
def test_two_opposite_rows_behind_an_isometry(name: str, scale: float) -> None:
    """One bound for all logits loses nothing if the rows of two classes are opposite."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = nn.Sequential(*FEATURES[name](), nn.Flatten())
        head = nn.Linear(32, 2).double()
    with torch.no_grad():
        head.weight[0].mul_(scale)
        head.weight[1].copy_(-head.weight[0])
        head.bias.mul_(scale)
    assert_exact(nn.Sequential(features, head).eval(), images(2, 4, 4))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("features", [5, 9])
def test_orthonormal_rows(features: int, seed: int) -> None:
    """Two orthonormal rows are sqrt(2) apart, so the general bound is exact."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), SOCLinear(features, CLASSES, **EXACT)).eval()
    assert_exact(model, images(1, 1, features))


def test_a_map_of_one_pixel_to_a_number_of_classes_by_convolution() -> None:
    """A 1 x 1 convolution with orthonormal rows, as torch's module."""
    layer = nn.Conv2d(7, CLASSES, 1).double()
    with torch.no_grad():
        rows = torch.linalg.qr(torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(0)).double())[0].T
        layer.weight.copy_(3 * rows[:, :, None, None])
    assert_exact(nn.Sequential(layer, nn.Flatten()).eval(), images(7, 1, 1))
