"""A plain residual network, as a teacher of certified networks."""

from collections.abc import Sequence

import torch
from torch import nn

from lipnet.layers import Residual
from lipnet.models.parts import LipschitzSequential, check_integers, make_normalize


class ResNet9(LipschitzSequential):
    """Plain residual network of eight 3 x 3 convolutions and a linear head, which is not 1-Lipschitz.

    Its certified radii are close to 0. It is a teacher for `lipnet.training.Distillation`.

    For images of S x S, with c = ``channels`` and s = ``stride``:

    | child | layers | output |
    | --- | --- | --- |
    | ``normalize`` | (x - mean) / std, from pixels in [0, 1] | S x S |
    | ``stem`` | convolution with stride s | c, S/s x S/s |
    | ``stage1`` | convolution, mean over 2 x 2 pixels, residual block of two convolutions | 2c, S/2s x S/2s |
    | ``stage2`` | convolution, mean over 2 x 2 pixels | 4c, S/4s x S/4s |
    | ``stage3`` | as ``stage1`` | 8c, S/8s x S/8s |
    | ``pooling``, ``flatten``, ``head`` | mean over all pixels, linear layer | ``num_classes`` |

    Batch normalisation and ReLU follow each convolution.

    Args:
        num_classes: number of logits.
        channels: c.
        in_channels: channels of the images.
        image_size: height and width of the images, S, divisible by 8 s.
        stride: s.
        mean: mean of the images, one number per channel.
        std: standard deviation of the images, one number.

    Shape:
        (B, in_channels, image_size, image_size) to (B, num_classes).

    Raises:
        ValueError: for sizes that do not fit.

    Source: the order of the layers is that of the residual network of nine layers by which D. Page won DAWNBench, 2018.

    Example:
        >>> import torch
        >>> ResNet9(10, channels=4, image_size=16).eval()(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 100,
        *,
        channels: int = 64,
        in_channels: int = 3,
        image_size: int = 32,
        stride: int = 2,
        mean: Sequence[float] | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        check_integers(channels=channels, image_size=image_size, stride=stride)
        if min(channels, image_size, stride) < 1 or image_size % (8 * stride):
            raise ValueError(
                "channels and stride must be positive, and image_size divisible by 8 * stride, got "
                f"channels={channels}, stride={stride}, image_size={image_size}"
            )
        self.add_module("normalize", make_normalize(mean, std, in_channels, image_size))
        self.add_module("stem", _convolution(in_channels, channels, stride))
        for number, width in enumerate((channels, 2 * channels, 4 * channels), 1):
            stage = nn.Sequential(_convolution(width, 2 * width), nn.AvgPool2d(2))
            if number != 2:
                body = nn.Sequential(_convolution(2 * width, 2 * width), _convolution(2 * width, 2 * width))
                stage.append(Residual(body, skip=1.0, branch=1.0))
            self.add_module(f"stage{number}", stage)
        self.add_module("pooling", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("head", nn.Linear(8 * channels, num_classes))
        # Faster on processors and accelerators alike; convolutions pass the layout of their weights on.
        self.to(memory_format=torch.channels_last)


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution with batch normalisation and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())
