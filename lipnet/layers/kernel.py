"""Base classes of layers that evaluate as one plain convolution, or as one product with a matrix."""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional import same_convolution
from lipnet.functional.rounding_error import Signal, Step, absolute_filter_norm, products
from lipnet.layers.arguments import check_convolution, check_groups, check_odd, pair
from lipnet.layers.base import LinearFeatures
from lipnet.layers.operands import OperandLayer, Operands


class KernelLayer(OperandLayer):
    """A layer whose only operand is a kernel (c_out, c_in/groups, kh, kw), with which it convolves.

    A subclass implements `weights`, `compute_operands` and `bound_operands`.
    """

    groups: int = 1

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        return same_convolution(maps, operands[0], self.groups, self.padding_mode)

    def round_operands(self, operands: Operands, signal: Signal, size: tuple[int, int]) -> Step:
        (kernel,) = operands
        return products(
            signal,
            length=prod(kernel.shape[1:]),
            magnitude=absolute_filter_norm(kernel, self.groups),
            gain=self.lipschitz_bound(),
            outputs=len(kernel) * prod(size),
        )


class ConvolutionLayer(KernelLayer):
    """A `KernelLayer` with the arguments of ``nn.Conv2d``.

    A stride is space-to-depth before the convolution, unless the subclass sets ``native_stride``. A subclass also
    implements `make_parameters`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value, and the padding mode ``"zeros"`` or
            ``"circular"``. Dilation must be 1 unless the subclass sets ``dilated``.
        device, dtype: of the parameters.

    Raises:
        ValueError: for a setting that the layer does not support.
    """

    # Whether the layer supports dilations other than 1.
    dilated: ClassVar[bool] = False

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_convolution(
            in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode, dilated=self.dilated
        )
        check_groups(groups, {"in_channels": in_channels, "out_channels": out_channels})
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            bias=bias,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.groups, self.dilation = groups, pair(dilation, 2, "dilation")
        pixels = 1 if self.native_stride else prod(self.stride)
        self.make_parameters(in_channels * pixels, device=device, dtype=dtype)

    @abstractmethod
    def make_parameters(
        self, in_channels: int, *, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        """Create the kernel's parameters, and initialise them and the bias.

        Args:
            in_channels: input channels of the kernel, after space-to-depth unless `native_stride`.
            device, dtype: of the parameters.
        """

    def check(self) -> None:
        super().check()
        check_odd(self.kernel_size)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []
        return ", ".join(parts)


class MatrixLayer(LinearFeatures, KernelLayer):
    """A linear layer whose only operand is a matrix (out_features, in_features).

    A subclass implements `weights`, `compute_operands` and `bound_operands`. There the matrix is a 1 x 1 kernel, of
    shape (out_features, in_features, 1, 1).
    """

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        return F.linear(maps.flatten(1), operands[0].flatten(1))[..., None, None]

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
