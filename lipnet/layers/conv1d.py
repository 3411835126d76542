"""Skew-orthogonal convolutions of sequences, used like ``nn.Conv1d`` and ``nn.ConvTranspose1d``."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lipnet.layers.arguments import check_convolution, check_output_padding, sizes
from lipnet.layers.soc import SOC
from lipnet.layers.transpose import SOCTranspose


class SOC1d(SOC):
    r"""Skew-orthogonal convolution of sequences: :math:`y = \exp(J)\,x + b` with a skew-symmetric 1-d convolution J.

    A `SOC` on maps of height 1, with a kernel of 1 x k: all that is said there holds. A stride takes as many
    neighbouring entries to channels of their own, so that c = max(in_channels * stride, out_channels). The parameter
    ``weight`` has shape (c, c/groups, 1, k), and `choice` takes the size (1, L / stride).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv1d``, with the restrictions of `SOC`.
        options: the keyword options of `SOC`.

    Shape:
        (B, in_channels, L) or (in_channels, L) to (..., out_channels, L / stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Example:
        >>> layer = SOC1d(2, 16, kernel_size=5, stride=4).eval()
        >>> layer(torch.zeros(1, 2, 32)).shape
        torch.Size([1, 16, 8])
        >>> layer.lipschitz_bound()
        1.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int] = 3,
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = "same",
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        kernel, step = sizes(kernel_size, 1)[0], sizes(stride, 1)[0]
        check_convolution(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
            max(in_channels * step, out_channels),
            dimensions=1,
            formula="max(in_channels * stride, out_channels)",
        )
        super().__init__(
            in_channels,
            out_channels,
            (1, kernel),
            (1, step),
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
            **options,
        )

    def forward(self, x: Tensor) -> Tensor:
        _check_sequences(self, x, self.stride[1])
        return super().forward(x.unsqueeze(-2)).squeeze(-2)

    def extra_repr(self) -> str:
        on_maps = f"kernel_size={self.kernel_size}, stride={self.stride}"
        return super().extra_repr().replace(on_maps, f"kernel_size={self.kernel_size[1]}, stride={self.stride[1]}")


class SOCTranspose1d(SOCTranspose):
    r"""Transposed skew-orthogonal convolution of sequences: :math:`y = \exp(-J)\,x + b`, which makes them longer.

    To `SOC1d` what `SOCTranspose` is to `SOC`: with the same weight, the adjoint of ``SOC1d(out_channels, in_channels,
    stride=stride)`` without bias, with c = max(in_channels, out_channels * stride). ``SOCTranspose1d.of`` and
    ``SOCTranspose1d.inverse_of`` take a `SOC1d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode:
            in the order of ``nn.ConvTranspose1d``, with the restrictions of `SOCTranspose`.
        options: the keyword options of `SOC`.

    Shape:
        (B, in_channels, L) or (in_channels, L) to (..., out_channels, L stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Example:
        >>> layer = SOCTranspose1d(16, 2, kernel_size=5, stride=4).eval()
        >>> layer(torch.zeros(1, 16, 8)).shape
        torch.Size([1, 2, 32])
        >>> layer.lipschitz_bound()
        1.0
    """

    _counterpart: ClassVar[type[SOC]] = SOC1d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int] = 3,
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = "same",
        output_padding: int | tuple[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int] = 1,
        padding_mode: str = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        kernel, step = sizes(kernel_size, 1)[0], sizes(stride, 1)[0]
        check_convolution(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
            max(in_channels, out_channels * step),
            dimensions=1,
            formula="max(in_channels, out_channels * stride)",
        )
        check_output_padding(output_padding, dimensions=1)
        super().__init__(
            in_channels,
            out_channels,
            (1, kernel),
            (1, step),
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
            **options,
        )

    def forward(self, x: Tensor) -> Tensor:
        _check_sequences(self, x)
        return super().forward(x.unsqueeze(-2)).squeeze(-2)

    @staticmethod
    def _geometry(layer: SOC | SOCTranspose) -> tuple[Any, Any]:
        return layer.kernel_size[1], layer.stride[1]


def _check_sequences(layer: SOC | SOCTranspose, x: Tensor, divisor: int = 1) -> None:
    """Raise ValueError for an input that is not sequences, or of a length that the layer cannot take."""
    name, channels, reach = type(layer).__name__, layer.in_channels, layer.kernel_size[1] // 2
    if x.dim() not in (2, 3) or x.shape[-2] != channels:
        needed = f"(B, {channels}, L) or ({channels}, L)"
        raise ValueError(f"{name} needs an input of shape {needed}, got {tuple(x.shape)}")
    length = x.shape[-1]
    if length % divisor:
        raise ValueError(f"{name} with stride {divisor} needs a length divisible by it, got {length}")
    if layer.padding_mode == "circular" and length < reach * divisor:
        needed = f"a length of at least {reach * divisor} for circular padding"
        raise ValueError(f"{name} with a kernel of {layer.kernel_size[1]} needs {needed}, got {length}")
