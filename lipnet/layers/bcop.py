"""Block convolution orthogonal parameterisation (BCOP): a convolution with an explicit orthogonal kernel."""

from math import prod

import torch
from torch import Tensor, nn

from lipnet.functional.autocorrelation import orthogonality_bound
from lipnet.functional.block_convolution import orthogonal_kernel
from lipnet.functional.orthogonal_matrices import polar_factor
from lipnet.functional.skew import adjoint_filter
from lipnet.layers.arguments import check_weight
from lipnet.layers.initial import reset_orthogonal
from lipnet.layers.kernel import ConvolutionLayer
from lipnet.layers.operands import Operands
from lipnet.layers.originals import WatchedModule


class BlockKernel(WatchedModule):
    """The parameters of an orthogonal kernel, and the function that computes the kernel from them.

    Args:
        in_channels, out_channels, kernel_size, groups: of the kernel.
        device, dtype: of the parameters.

    Attributes:
        matrix: (groups, c, m) with c and m the larger and the smaller number of channels in a group. Its polar factor
            is the 1 x 1 convolution.
        bases: (kh - 1 + kw - 1, groups, c, c // 2), whose polar factors span the subspaces of the projectors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        groups: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.groups = kernel_size, groups
        matrix, bases = self._shapes(in_channels, out_channels)
        # `orthogonal_kernel` has orthonormal columns. A layer that reduces the channels needs its adjoint.
        self.reduces = out_channels < in_channels
        self.matrix = nn.Parameter(torch.empty(matrix, device=device, dtype=dtype))
        self.bases = nn.Parameter(torch.empty(bases, device=device, dtype=dtype))
        self.reset_parameters()

    def _shapes(self, in_channels: int, out_channels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        small, large = sorted((in_channels // self.groups, out_channels // self.groups))
        factors = sum(self.kernel_size) - 2
        return (self.groups, large, small), (factors, self.groups, large, large // 2)

    def reset_parameters(self) -> None:
        """Draw orthogonal matrices."""
        with torch.no_grad():
            for matrix in (*self.matrix, *self.bases.flatten(0, 1)):
                if matrix.numel():
                    reset_orthogonal(matrix)

    def check(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], groups: int) -> None:
        """Raise ValueError unless settings and parameters are those of a kernel with these settings."""
        if (self.kernel_size, self.groups) != (kernel_size, groups):
            raise ValueError(
                f"block must have kernel_size {kernel_size} and groups {groups} for the layer's settings, got "
                f"{self.kernel_size} and {self.groups}"
            )
        matrix, bases = self._shapes(in_channels, out_channels)
        check_weight("block.matrix", self.matrix, matrix)
        check_weight("block.bases", self.bases, bases)

    def kernel(self, matrix: Tensor, bases: Tensor) -> Tensor:
        """Return the kernel (c_out, c_in/groups, kh, kw) for values of both parameters, differentiable."""
        kernel = orthogonal_kernel(polar_factor(matrix), polar_factor(bases), self.kernel_size)
        return adjoint_filter(kernel, self.groups) if self.reduces else kernel


class BCOP(ConvolutionLayer):
    r"""Orthogonal convolution by block convolution (BCOP): a product of an orthogonal matrix and 2 x 2 kernels.

    Each 2 x 2 kernel is (P + (I - P) z_1) (Q + (I - Q) z_2) with shifts z by one pixel and orthogonal projectors P and
    Q on half of the channels. A k x k kernel is a product of k - 1 such kernels and an orthogonal 1 x 1 convolution.
    With circular padding, the layer has orthonormal rows if out_channels < in_channels * stride^2, else orthonormal
    columns. With zero padding, it is a contraction.

    The orthonormal bases are polar factors of free matrices, computed by Newton-Schulz steps that never exceed norm 1.
    So the layer is a contraction for any weights. Evaluation costs one convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value, dilation 1, and the padding mode
            ``"zeros"`` or ``"circular"``. A stride is space-to-depth; `AOC` strides natively.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that the layer does not support, and for inputs of the wrong shape.

    Source: Li et al., "Preventing gradient attenuation in Lipschitz constrained convolutional networks", NeurIPS 2019
    (arXiv 1911.00937). As there, all matrices start orthogonal; the polar factors replace 20 steps of Björck's method
    of order 1.

    Example:
        >>> layer = BCOP(3, 8, stride=2).eval()
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> round(layer.lipschitz_bound(), 6)
        1.0
    """

    def make_parameters(
        self, in_channels: int, *, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self.block = BlockKernel(in_channels, self.out_channels, self.kernel_size, self.groups, device, dtype)
        self.reset_bias()

    def reset_parameters(self) -> None:
        """Draw orthogonal matrices, and biases uniformly from +-1 / sqrt(out_channels)."""
        self.block.reset_parameters()
        self.reset_bias()

    def check(self) -> None:
        super().check()
        self.block.check(self.in_channels * prod(self.stride), self.out_channels, self.kernel_size, self.groups)

    def weights(self) -> list[Tensor]:
        return [self.block.matrix, self.block.bases]

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        matrix, bases = weights
        return (self.block.kernel(matrix, bases),)

    def bound_operands(self, operands: Operands) -> float:
        return orthogonality_bound(operands[0], self.groups)
