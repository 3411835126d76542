"""LipConvNet with the convolutions of other packages, and their export to plain convolutions.

The packages treat strides and changes of the number of channels differently; each function below says how. The last
layer of LipConvNet has a 1 x 1 kernel and stride 2, and sees a window of 2 x 2 pixels, because its stride is
space-to-depth. The other packages refuse a kernel smaller than the stride, or skip pixels, so their kernel is 2 x 2
there.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from benchmarks.lipconvnet import VARIANTS
from lipnet.layers import ChannelShuffle, MaxMinPermuted
from lipnet.models import LipConvNet

Make = Callable[..., nn.Sequential]
Model = TypeVar("Model", bound=nn.Module)


def aoc(in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1) -> nn.Module:
    """Return an adaptive orthogonal convolution (arXiv 2501.07930): an explicit kernel, orthogonal if circular.

    Channels change in the kernel itself; stride 2 merges a 2 x 2 convolution and a strided 2 x 2 one into one kernel.
    The first layer has one group, because groups cannot divide the 3 channels of an image.
    """
    from orthogonium.layers import AdaptiveOrthoConv2d

    kernel_size, padding = _window(kernel_size, stride)
    groups = _groups(in_channels, groups)
    conv: nn.Module = AdaptiveOrthoConv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups)
    return conv


def bcop(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Module:
    """Return a block convolution (BCOP, arXiv 1911.00937) by orthogonium's parallel products, with circular padding.

    A stride is space-to-depth, as published. With a 1 x 1 kernel, only the orthogonal matrix is left.
    """
    from orthogonium.layers import AdaptiveOrthoConv2d

    conv = AdaptiveOrthoConv2d(in_channels * stride**2, out_channels, kernel_size, 1, kernel_size // 2)
    return conv if stride == 1 else nn.Sequential(nn.PixelUnshuffle(stride), conv)


def adaptive_soc(in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1) -> nn.Module:
    """Return orthogonium's SOC: a Taylor polynomial of degree 3 as one explicit kernel, 7 x 7, or 8 x 8 with stride 2.

    Channels change by cutting that kernel; the stride is as in `aoc`. The padding is zero, because circular padding by
    3 does not fit the network's last feature maps. So near the border the layer is a contraction at best.
    """
    from orthogonium.layers.conv.adaptiveSOC import AdaptiveSOCConv2d

    kernel_size, _ = _window(kernel_size, stride)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="kernel size changed", category=RuntimeWarning)
        conv: nn.Module = AdaptiveSOCConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=0 if kernel_size == stride else 3,
            groups=_groups(in_channels, groups),
            padding_mode="zeros",
        )
    return conv


def aol(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Module:
    """Return an almost-orthogonal layer (AOL, ECCV 2022): ``nn.Conv2d`` with a kernel rescaled to a contraction."""
    from orthogonium.layers.conv.AOL.aol import AOLConv2D

    kernel_size, padding = _window(kernel_size, stride)
    conv: nn.Module = AOLConv2D(in_channels, out_channels, kernel_size, stride, padding)
    return conv


def spectral(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Module:
    """Return deel-torchlip's convolution (arXiv 2006.06520): a contraction with channels and stride of ``nn.Conv2d``.

    Its kernel is orthonormal as a matrix (out, in * taps), and divided by the square root of the number of overlapping
    taps. The layer is not orthogonal.
    """
    from deel.torchlip import SpectralConv2d

    kernel_size, padding = _window(kernel_size, stride)
    conv: nn.Module = SpectralConv2d(in_channels, out_channels, kernel_size, stride, padding)
    return conv


class OrthogonalPointwise(nn.Module):
    """1 x 1 convolution in place of a larger one, with a matrix that torch's parametrisation makes orthogonal.

    A stride is space-to-depth; only strided layers mix pixels. The matrix is rectangular if the channels change.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # A linear layer, because in a weight (out, in, 1, 1) torch would make each 1 x 1 kernel orthogonal. Cayley,
        # because the gradient of torch's default takes half a minute for 2048 to 1024 channels on a CPU.
        self.linear = nn.Linear(in_channels * stride**2, out_channels)
        orthogonal(self.linear, orthogonal_map="cayley")

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pixel_unshuffle(x, self.stride), self.linear.weight[:, :, None, None], self.linear.bias)


def shuffled(
    conv: Callable[..., nn.Module], in_channels: int, *arguments: int, groups: int, **settings: int
) -> nn.Module:
    """Return a grouped convolution after GS-SOC's paired channel shuffle, if the groups divide the channels."""
    shuffle = nn.Identity() if in_channels % groups else ChannelShuffle(groups, paired=True)
    return nn.Sequential(shuffle, conv(in_channels, *arguments, groups=groups, **settings))


def _window(kernel_size: int, stride: int) -> tuple[int, int]:
    """Return kernel size and padding with which a stride divides height and width exactly."""
    kernel_size = max(kernel_size, stride)
    return kernel_size, (kernel_size - stride + 1) // 2


def _groups(in_channels: int, groups: int) -> int:
    return 1 if in_channels % groups else groups


@dataclass(frozen=True)
class Peer:
    """Network that needs a package.

    Attributes:
        package: name of the distribution.
        make: factory of the network, with the arguments of LipConvNet.
    """

    package: str
    make: Make

    def missing(self) -> bool:
        """Return whether the package is not installed."""
        try:
            version(self.package)
        except PackageNotFoundError:
            return True
        return False


def _grouped(conv: Callable[..., nn.Module]) -> Make:
    return partial(LipConvNet, conv=partial(shuffled, conv, groups=4), activation=MaxMinPermuted)


PEERS: dict[str, Peer] = {
    "orthogonium AOC": Peer("orthogonium", partial(LipConvNet, conv=aoc)),
    "orthogonium AOC, 4 groups": Peer("orthogonium", _grouped(aoc)),
    "orthogonium SOC": Peer("orthogonium", partial(LipConvNet, conv=adaptive_soc)),
    "orthogonium SOC, 4 groups": Peer("orthogonium", _grouped(adaptive_soc)),
    "orthogonium AOL": Peer("orthogonium", partial(LipConvNet, conv=aol)),
    "deel-torchlip SpectralConv2d": Peer("deel-torchlip", partial(LipConvNet, conv=spectral)),
    "torch orthogonal (Cayley), 1 x 1": Peer("torch", partial(LipConvNet, conv=OrthogonalPointwise)),
}


def available(names: Sequence[str], say: Callable[[str], None]) -> dict[str, Make]:
    """Return the networks whose packages are installed; call ``say`` with a line about each of the others."""
    networks: dict[str, Make] = {}
    for name in names:
        if name in VARIANTS:
            networks[name] = VARIANTS[name]
        elif PEERS[name].missing():
            say(f"{name} is left out: pip install {PEERS[name].package}")
        else:
            networks[name] = PEERS[name].make
    return networks


def versions() -> dict[str, str]:
    """Return the versions of the installed packages of `PEERS`."""
    return {peer.package: version(peer.package) for peer in PEERS.values() if not peer.missing()}


def exportable(model: nn.Module) -> bool:
    """Return whether `exported` replaces a layer of the model."""
    return any(_parametrised(module) for module in model.modules())


def exported(model: Model) -> Model:
    """Replace every parametrised convolution or linear layer, in place, by a plain one with the same weight.

    Otherwise the other packages recompute their weights at every call, even in evaluation.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _parametrised(child):
                setattr(parent, name, _plain(child))
    return model


def _parametrised(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    return isinstance(module, nn.Conv2d | nn.Linear) and parametrize.is_parametrized(module)


@torch.no_grad()
def _plain(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    weight, has_bias = layer.weight.detach().clone(), layer.bias is not None
    plain: nn.Conv2d | nn.Linear
    if isinstance(layer, nn.Linear):
        plain = nn.Linear(layer.in_features, layer.out_features, has_bias)
    else:
        # The size of the weight, because orthogonium's SOC has a larger kernel than requested.
        plain = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            _pair(weight.shape[2:]),
            _pair(layer.stride),
            layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
            _pair(layer.dilation),
            layer.groups,
            has_bias,
            layer.padding_mode,
        )
    plain.load_state_dict({"weight": weight} | ({"bias": layer.bias} if has_bias else {}))
    return plain.to(weight).train(layer.training)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    height, width = values
    return height, width
