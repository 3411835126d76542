"""Adaptive orthogonal convolution (AOC): BCOP with a stride and a dilation of its own."""

from math import gcd, prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional.autocorrelation import orthogonality_bound
from lipnet.functional.block_convolution import with_stride, without_stride
from lipnet.functional.convolution import pad_circularly
from lipnet.functional.orthogonal_matrices import polar_factor
from lipnet.layers.arguments import check_weight
from lipnet.layers.bcop import BlockKernel
from lipnet.layers.initial import reset_orthogonal
from lipnet.layers.kernel import ConvolutionLayer
from lipnet.layers.operands import Operands


class AOC(ConvolutionLayer):
    r"""Adaptive orthogonal convolution: one explicit orthogonal kernel with stride, groups and dilation.

    The kernel is the product of two kernels: a `BCOP` kernel of size k - s + 1, and a kernel of the stride's size s.
    Reshaped to (c_out, c s^2), the second one is an orthogonal matrix, which maps disjoint patches. The product is
    orthogonal if both kernels have orthonormal columns, or both have orthonormal rows. So there are
    c = max(in_channels, out_channels // s^2) channels between them. Without a stride, the layer is a `BCOP`.

    A kernel smaller than the stride would skip pixels. It is enlarged to the stride, so that a 1 x 1 convolution of
    stride 2 maps disjoint patches of 2 x 2 pixels.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value, and the padding mode ``"zeros"``
            (a contraction) or ``"circular"`` (orthogonal). Dilation and stride must have no common divisor, or the
            kernel would skip pixels.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that the layer does not support, and for inputs of the wrong shape.

    Source: Boissin et al., "An adaptive orthogonal convolution scheme for efficient and flexible CNN architectures",
    ICML 2025 (arXiv 2501.07930).

    Example:
        >>> layer = AOC(3, 8, stride=2).eval()
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> round(layer.lipschitz_bound(), 6)
        1.0
    """

    dilated: ClassVar[bool] = True
    native_stride: ClassVar[bool] = True

    def make_parameters(
        self, in_channels: int, *, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        # Dilation means nothing for a single tap.
        down, across = (1 if k == 1 else d for k, d in zip(self.kernel_size, self.dilation, strict=True))
        self.dilation = (down, across)
        self._check_dilation()
        self.block: BlockKernel | None = None
        self.reduction: nn.Parameter | None = None
        channels, kernel_size = self._block_settings()
        # A 1 x 1 kernel before the reduction would add nothing to it.
        if self.stride == (1, 1) or kernel_size != (1, 1):
            self.block = BlockKernel(in_channels, channels, kernel_size, self.groups, device, dtype)
        if self.stride != (1, 1):
            self.reduction = nn.Parameter(torch.empty(self._reduction_shape(channels), device=device, dtype=dtype))
        self.reset_parameters()

    def _block_settings(self) -> tuple[int, tuple[int, int]]:
        """Return the output channels and the size of the kernel before the reduction."""
        if self.stride == (1, 1):
            return self.out_channels, self.kernel_size
        rows, columns = (max(k - step + 1, 1) for k, step in zip(self.kernel_size, self.stride, strict=True))
        if (rows, columns) == (1, 1):
            return self.in_channels, (1, 1)
        inputs, outputs = self.in_channels // self.groups, self.out_channels // self.groups
        return self.groups * max(inputs, outputs // prod(self.stride)), (rows, columns)

    def _reduction_shape(self, channels: int) -> tuple[int, ...]:
        """Return the shape of the matrices of a reduction with this number of input channels."""
        return self.groups, self.out_channels // self.groups, channels // self.groups * prod(self.stride)

    def check(self) -> None:
        super().check()
        channels, kernel_size = self._block_settings()
        if self.block is not None:
            self.block.check(self.in_channels, channels, kernel_size, self.groups)
        check_weight("reduction", self.reduction, self._reduction_shape(channels))

    def _check_dilation(self) -> None:
        for kernel, step, spacing in zip(self.kernel_size, self.stride, self.dilation, strict=True):
            if gcd(step, spacing) > 1 or (spacing > 1 and kernel < step):
                raise ValueError(
                    "dilation must have no common divisor with the stride, and be 1 for a kernel smaller than the "
                    f"stride, got dilation {self.dilation}, stride {self.stride}, kernel_size {self.kernel_size}"
                )

    def reset_parameters(self) -> None:
        """Draw orthogonal matrices, and biases uniformly from +-1 / sqrt(out_channels)."""
        if self.block is not None:
            self.block.reset_parameters()
        if self.reduction is not None:
            with torch.no_grad():
                for matrix in self.reduction:
                    reset_orthogonal(matrix)
        self.reset_bias()

    def weights(self) -> list[Tensor]:
        weights: list[Tensor] = [] if self.reduction is None else [self.reduction]
        return weights if self.block is None else [*weights, self.block.matrix, self.block.bases]

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        if self.reduction is None:
            assert self.block is not None
            return (self.block.kernel(*weights),)
        matrix, *block = weights
        reduction = polar_factor(matrix).reshape(self.out_channels, -1, *self.stride)
        return (reduction if self.block is None else with_stride(reduction, self.block.kernel(*block), self.groups),)

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        (kernel,) = operands
        # A kernel that was enlarged to the stride, as every even one was, covers disjoint patches and needs no padding.
        padding = [
            d * (taps // 2) if taps % 2 and k >= step else 0
            for taps, k, step, d in zip(kernel.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        ]
        if self.padding_mode == "circular" and any(padding):
            maps, padding = pad_circularly(maps, *padding), [0, 0]
        return F.conv2d(maps, kernel, None, self.stride, (padding[0], padding[1]), self.dilation, self.groups)

    def bound_operands(self, operands: Operands) -> float:
        return orthogonality_bound(without_stride(operands[0], self.stride, self.dilation), self.groups)
