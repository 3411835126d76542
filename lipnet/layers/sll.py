"""The SDP-based Lipschitz layer (SLL), a residual convolution."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional.autocorrelation import absolute_gram, dominance_bound
from lipnet.functional.skew import adjoint_filter
from lipnet.layers.arguments import check_weight
from lipnet.layers.potential import SMALLEST_NORM_OF_W, GradientStep


class SLL(GradientStep):
    r"""SDP-based Lipschitz layer: x -> x - 2 W^T T^(-1) relu(W x + b) with a diagonal T >= W W^T.

    W is a convolution, the parameter ``weight``, and b is ``hidden_bias``. With B = `absolute_gram` of W^T,
    T_i = sum_j B_ij q_j / q_i for positive weights q, so that T - W W^T is diagonally dominant after a change of basis.
    The layer learns log q as ``log_q``. (The authors take the absolute value of a parameter for q; the exponential
    keeps q away from 0.)

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value, dilation 1, and the padding mode
            ``"zeros"`` or ``"circular"``. A stride is space-to-depth. Missing input channels are zeros, and surplus
            output channels are dropped, see `GradientStep`.
        hidden_channels: rows of W; max(in_channels * stride^2, out_channels) by default.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that the layer does not support, and for inputs of the wrong shape.

    Source: Araujo et al., "A unified algebraic perspective on Lipschitz neural networks", ICLR 2023 (arXiv 2303.03169).

    Example:
        >>> layer = SLL(8, 8).eval()
        >>> layer(torch.zeros(1, 8, 16, 16)).shape
        torch.Size([1, 8, 16, 16])
        >>> round(layer.lipschitz_bound(), 6)
        1.0
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
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **options
        )
        self.log_q = nn.Parameter(torch.empty_like(self.weight[:, 0, 0, 0]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights as in Xavier's initialisation, biases as ``nn.Conv2d`` does, and set q to 1."""
        super().reset_parameters()
        nn.init.zeros_(self.log_q)

    def check(self) -> None:
        super().check()
        check_weight("log_q", self.log_q, (self.hidden_channels,))

    def weights(self) -> list[Tensor]:
        return [*super().weights(), self.log_q]

    def scales(self, weight: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Return sqrt(2 / T_i) for each row i."""
        q = others[0].exp().view(self.groups, -1, 1)
        dominant = (absolute_gram(adjoint_filter(weight, self.groups), self.groups) @ q / q).flatten()
        return (dominant.clamp_min(SMALLEST_NORM_OF_W**2) / 2).rsqrt()

    def bound_kernel(self, kernel: Tensor) -> float:
        return dominance_bound(adjoint_filter(kernel, self.groups), self.groups)
