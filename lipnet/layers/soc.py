"""The skew-orthogonal convolution (SOC), used like ``nn.Conv2d``."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional import space_to_depth
from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers.arguments import check_convolution, pair
from lipnet.layers.skew_orthogonal import SkewOrthogonal, map_size, per_sample, with_channels


class SOC(SkewOrthogonal):
    r"""Skew-orthogonal convolution: :math:`y = \exp(J)\,x + b` with a skew-symmetric convolution J.

    J is the 'same' convolution with :math:`L = s\,(M - T(M)) / 2`, M being the parameter ``weight`` and T(M) the filter
    of the adjoint. J^T = -J, so exp(J) is orthogonal. The scale s > 0 brings ||J|| to 1.4.

    With c = max(in_channels * stride^2, out_channels) channels inside: a stride is space-to-depth followed by stride 1;
    the input is padded with zero channels up to c (an isometry), and the first ``out_channels`` channels of the result
    are kept (a contraction). With groups, M and exp(J) are block-diagonal, each group a SOC of its own with its own
    scale; groups whose input is padding alone, or whose output is not kept, are left out of the computation.

    The exponential is computed by one of three engines. *series*: a polynomial of J of the lowest degree that is within
    a tolerance of exp, its interval being a certified bound on ||J|| in evaluation and what the scale aims at in
    training. *spectral* (circular padding): an exponential for each frequency. *dense* (1 x 1 kernels, small maps): one
    matrix exponential. `choice` tells which, and why.

    In evaluation, everything that depends on the weights comes from the weights alone, in float64; it is kept until
    they change, and no buffer is read or written. In training, s comes from one step of power iteration on stored
    vectors: an estimate, cheap and differentiable, and no part of any guarantee. :meth:`lipschitz_bound` holds in
    either mode.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
        ``nn.Conv2d``.
            The kernel must be odd; padding ``"same"`` or its value (k - 1) / 2; dilation 1; padding mode ``"zeros"`` or
            ``"circular"``: everything else breaks the skew symmetry.
        engine: ``"auto"``, or an engine's name.
        series: ``"chebyshev"``, or ``"taylor"`` as published.
        scaling: ``"jacobian"``: ||J|| becomes 1.4; or ``"reshaped"``, as published: the smallest norm of the reshaped
            filters becomes 0.7 * 3 / sqrt(kh kw) (1 for a 1 x 1 kernel), so that ||J|| <= 2.1.
        train_terms, eval_terms: degree of the polynomial, instead of one that follows from a tolerance; as published: 5
            and 12.
        train_tolerance, eval_tolerance: how far the polynomial may be from the exponential on the interval.
        recompute: in training, keep only the input for the backward pass of the series and compute the rest again.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021; grouped form: Gorbunov et al., NeurIPS 2024
    (arXiv 2406.10019).

    Example:
        >>> layer = SOC(3, 8, kernel_size=3, stride=2).eval()
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> layer.lipschitz_bound()
        1.0
        >>> layer.choice(batch=1, size=(16, 16)).engine
        'series'
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = pair(stride)
        inside = in_channels * self.stride[0] * self.stride[1]
        channels = max(inside, out_channels)
        check_convolution(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, channels
        )
        # Groups that see no input give zeros, and those beyond the channels that are kept are not asked for.
        per_group = channels // groups
        active_groups = min(-(-inside // per_group), -(-out_channels // per_group))
        super().__init__(
            channels, pair(kernel_size), groups, active_groups, padding_mode, device=device, dtype=dtype, **options
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation 1 / sqrt(channels in a group); biases as in ``nn.Conv2d``."""
        self.reset_weight()
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / sqrt(self.out_channels), 1 / sqrt(self.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        return per_sample(self._batch, x)

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """The rounding of an evaluation with explicit products; see `lipnet.functional.rounding_error`."""
        (height, width), (down, across) = map_size(signal.shape), self.stride
        size = (height // down, width // across)
        step = self.exponential_step(signal, size)
        return step.then(addition(signal.after(step, shape), self.bias, size[0] * size[1]))

    def layer_facts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """What the bound rests on, for samples of this shape: see `SkewOrthogonal.facts`."""
        height, width = map_size(shape)
        return self.facts((height // self.stride[0], width // self.stride[1]))

    def _batch(self, x: Tensor) -> Tensor:
        maps = with_channels(space_to_depth(x, self.stride), self._active_channels)
        maps = self.exponential(maps, self.out_channels)
        if self.bias is None:
            return maps
        bias = self.bias.view(-1, 1, 1)
        # Nothing else sees these maps; autograd would refuse views of a function's result.
        return maps + bias if torch.is_grad_enabled() else maps.add_(bias)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join([*parts, *self.options_repr()])

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            needed = f"(B, {self.in_channels}, H, W) or ({self.in_channels}, H, W)"
            raise ValueError(f"{name} needs an input of shape {needed}, got {tuple(x.shape)}")
        (height, width), (down, across) = x.shape[-2:], self.stride
        if height % down or width % across:
            stride = down if down == across else self.stride
            raise ValueError(
                f"{name} with stride {stride} needs a height and a width divisible by it, got {height} x {width}"
            )
        self.check_maps(height // down, width // across)
