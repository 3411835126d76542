"""The linear residual convolution of LiResNet."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.layers.arguments import check_weight
from lipnet.layers.scaled_conv import ScaledConv2d


class LiRes(ScaledConv2d):
    r"""Linear residual convolution: :math:`y = (x + \gamma W * x / \sqrt{d})\,/\,\|\cdot\| + b`.

    W is the parameter ``weight``, d the number of such layers in a row, and gamma a learned factor for each output
    channel. The residual connection is part of the kernel, :math:`\delta + \gamma W / \sqrt{d}`, where delta is the
    kernel of the identity. The kernel is divided by its norm :math:`\sup_w \|I + \gamma A(w) / \sqrt{d}\|`, with the
    frequency response A(w) of W. As in `ScaledConv2d`, training estimates this norm, and certificates bound it.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, size, device,
            dtype: as in `ScaledConv2d`, with equal channels, stride 1, an odd kernel and padding ``"same"``.
        depth: d.

    Raises:
        ValueError: for settings under which the input cannot be added to the output.

    Source: LiResNet: Hu et al., "Unlocking deterministic robustness certification on ImageNet", NeurIPS 2023 (arXiv
    2301.12549).

    Example:
        >>> 1 <= LiRes(8, 8, depth=12, size=16).eval().lipschitz_bound() < 1.1
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        depth: int = 1,
        size: int | Sequence[int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # Before the constructor of the base class, which estimates the norm of the initial kernel.
        self.depth = depth
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            size=size,
            device=device,
            dtype=dtype,
        )

    def _add_parameters(self, shape: tuple[int, ...], **options: Any) -> None:
        super()._add_parameters(shape, **options)
        self.gamma = nn.Parameter(torch.empty(shape[0], **options))

    def _check_settings(self) -> None:
        super()._check_settings()
        same = all(2 * around + 1 == taps for around, taps in zip(self.padding, self.kernel_size, strict=True))
        if self.in_channels != self.out_channels or self.stride != (1, 1) or not same:
            raise ValueError(
                "LiRes adds its input, so it needs equal channels, stride 1, an odd kernel and padding 'same', got "
                f"{self.in_channels} channels in, {self.out_channels} out, kernel_size {self.kernel_size}, "
                f"stride {self.stride}, padding {self.padding}"
            )
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")

    def reset_parameters(self) -> None:
        """Set gamma to 1, and the rest as in `ScaledConv2d`."""
        nn.init.ones_(self.gamma)
        super().reset_parameters()

    def check(self) -> None:
        super().check()
        check_weight("gamma", self.gamma, (self.out_channels,))

    def weights(self) -> list[Tensor]:
        return [self.weight, self.gamma]

    def free_kernel(self, *weights: Tensor) -> Tensor:
        weight, gamma = weights
        return _unit_kernel(weight) + gamma.view(-1, 1, 1, 1) * weight / sqrt(self.depth)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, depth={self.depth}"


def _unit_kernel(weight: Tensor) -> Tensor:
    """Return the kernel of the identity in the shape of a weight: 1 at the middle tap of a channel's own input."""
    outputs, inputs, rows, columns = weight.shape
    taps = torch.arange(inputs * rows * columns, device=weight.device)
    own = torch.arange(outputs, device=weight.device) % inputs * rows * columns + rows * columns // 2
    return (taps == own.unsqueeze(1)).to(weight.dtype).view(weight.shape)
