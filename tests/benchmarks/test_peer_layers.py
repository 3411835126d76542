"""Networks with other packages' layers have LipConvNet's shapes, and compute the same when exported."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from benchmarks import peer_layers
from benchmarks.lipconvnet import PLAIN, VARIANTS
from benchmarks.orthogonality import singular_values
from benchmarks.peer_layers import PEERS, OrthogonalPointwise, Peer, available, exportable, exported
from lipnet.layers import MaxMin
from lipnet.models import LipConvNet

SMALL = {"depth": 4, "stages": 2, "initial_channels": 8, "in_channels": 8, "image_size": 8, "num_classes": 5}
# torch's is always installed; the others are checked where they are.
INSTALLED = [name for name, peer in PEERS.items() if not peer.missing()]


def widened(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    """Return a parametrised convolution with a larger kernel than its arguments say, as that of a polynomial."""

    class Widen(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return nn.functional.pad(weight, (1, 1, 1, 1), value=0.5)

    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2 + 1)
    parametrize.register_parametrization(layer, "weight", Widen(), unsafe=True)
    return layer


@pytest.mark.parametrize("name", INSTALLED)
def test_networks_have_the_shapes_of_lipconvnet(name: str) -> None:
    model = PEERS[name].make(**SMALL)
    assert isinstance(model, LipConvNet)
    assert model(torch.rand(2, 8, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("name", INSTALLED)
def test_exported_networks_compute_the_same(name: str) -> None:
    model = PEERS[name].make(**SMALL)
    images = torch.rand(2, 8, 8, 8)
    # Some peers keep a weight of the last training call, and others go on estimating norms at each call.
    for _ in range(20):
        model(images)
    model.eval()
    with torch.no_grad():
        before = model(images)
        assert exportable(model)
        after = exported(model)(images)
    assert not exportable(model)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [widened, OrthogonalPointwise])
def test_export_keeps_the_function(make: Callable[..., nn.Module]) -> None:
    model = LipConvNet(conv=make, activation=MaxMin, **SMALL).eval()
    images = torch.rand(2, 8, 8, 8)
    before = model(images)
    assert exported(model) is model
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    torch.testing.assert_close(model(images), before)


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_is_orthogonal(stride: int) -> None:
    values = singular_values(OrthogonalPointwise(4, 6, 3, stride), (4, 4, 4))
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)


def test_missing_packages_are_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer("a-package-that-nobody-has", PEERS["torch orthogonal (Cayley), 1 x 1"].make)
    monkeypatch.setattr(peer_layers, "PEERS", {"absent": absent, "torch orthogonal (Cayley), 1 x 1": absent})
    lines: list[str] = []
    assert available([PLAIN, "absent"], lines.append) == {PLAIN: VARIANTS[PLAIN]}
    assert lines == ["absent is left out: pip install a-package-that-nobody-has"]
    assert not PEERS["torch orthogonal (Cayley), 1 x 1"].missing()
