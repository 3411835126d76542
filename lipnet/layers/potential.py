"""Base class of residual layers that take a gradient step on a convex potential: `CPL` and `SLL`."""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod, sqrt

import torch
from torch import Tensor, nn

from lipnet.functional import same_convolution, with_channels
from lipnet.functional.rounding_error import (
    TINY,
    UNIT,
    Signal,
    Step,
    absolute_filter_norm,
    euclidean_norm,
    products,
    up,
)
from lipnet.functional.skew import adjoint_filter
from lipnet.layers.arguments import check_convolution, check_groups, check_odd, check_weight, sizes
from lipnet.layers.operands import OperandLayer, Operands

# Lower limit for norms of W, which divide the kernel and the bias.
SMALLEST_NORM_OF_W = 1e-6


class GradientStep(OperandLayer):
    """A layer x -> x - V^T relu(V x + b) with a convolution V of norm at most sqrt(2).

    Its Jacobian I - V^T D V, D diagonal with entries 0 and 1, is symmetric. Its eigenvalues lie between 1 - ||V||^2 and
    1, so that the layer is max(1, ||V||^2 - 1)-Lipschitz. The published form x - 2 W^T T^(-1) relu(W x + b), with a
    positive diagonal T, has V = sqrt(2) T^(-1/2) W and the bias sqrt(2) T^(-1/2) b, because relu commutes with
    positive factors.

    W is the parameter ``weight``, and b is ``hidden_bias``. A stride is space-to-depth. The layer has
    c = max(in_channels * stride^2, out_channels) channels: missing input channels are zeros, and the first
    ``out_channels`` channels of the result are kept. For groups = 1, the convolutions leave out weights that meet only
    these zeros, or contribute only to dropped channels.

    The operands are the kernels of V and of V^T, and the bias. A subclass implements `scales` and `bound_kernel`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value, dilation 1, and the padding mode
            ``"zeros"`` or ``"circular"``.
        hidden_channels: rows of W, a multiple of groups; None for c.
        device, dtype: of the parameters.

    Raises:
        ValueError: for a setting that the layer does not support.
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
        hidden_channels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_convolution(in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode)
        check_groups(groups, {"in_channels": in_channels, "out_channels": out_channels})
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            bias=False,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.groups = groups
        self.channels_in = in_channels * prod(sizes(stride, 2, "stride"))
        self.channels = max(self.channels_in, out_channels)
        self.hidden_channels = self.channels if hidden_channels is None else hidden_channels
        if self.hidden_channels < 1 or self.hidden_channels % groups:
            raise ValueError(f"hidden_channels must be a multiple of groups = {groups}, got {hidden_channels}")
        self.weight = nn.Parameter(torch.empty(self._weight_shape, device=device, dtype=dtype))
        # This bias is added before the relu. `OperandLayer.bias` would be added to the result.
        self.hidden_bias = nn.Parameter(torch.empty(self.hidden_channels, device=device, dtype=dtype)) if bias else None

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.hidden_channels, self.channels // self.groups, *self.kernel_size

    def reset_parameters(self) -> None:
        """Draw normal weights as in Xavier's initialisation, and biases as ``nn.Conv2d`` does."""
        nn.init.xavier_normal_(self.weight)
        if self.hidden_bias is not None:
            bound = 1 / sqrt(prod(self.weight.shape[1:]))
            nn.init.uniform_(self.hidden_bias, -bound, bound)

    @abstractmethod
    def scales(self, weight: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Return the factors (hidden_channels,) that turn the rows of the weight into the rows of V.

        Args:
            weight: the parameter ``weight``.
            others: the tensors that `weights` lists after weight and bias.
        """

    @abstractmethod
    def bound_kernel(self, kernel: Tensor) -> float:
        """Bound the norm of a convolution V from above."""

    def weights(self) -> list[Tensor]:
        return [self.weight] if self.hidden_bias is None else [self.weight, self.hidden_bias]

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        weight, *others = weights
        bias = None if self.hidden_bias is None else others.pop(0)
        factors = self.scales(weight, others)
        kernel = factors[:, None, None, None] * weight
        biases = () if bias is None else (factors * bias,)
        adjoint = adjoint_filter(kernel, self.groups)
        if self.groups > 1:
            return kernel, adjoint, *biases
        return kernel[:, : self.channels_in], adjoint[: self.out_channels], *biases

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        kernel, adjoint, *biases = operands
        inputs = with_channels(maps, kernel.shape[1] * self.groups)
        hidden = same_convolution(inputs, kernel, self.groups, self.padding_mode, *biases)
        # Backward needs the value before the relu: no in-place relu with gradients.
        hidden = hidden.relu() if torch.is_grad_enabled() else hidden.relu_()
        change = same_convolution(hidden, adjoint, self.groups, self.padding_mode)
        return with_channels(maps, self.out_channels) - with_channels(change, self.out_channels)

    def check(self) -> None:
        super().check()
        inputs = self.in_channels * prod(self.stride)
        stated = (inputs, max(inputs, self.out_channels))
        if (self.channels_in, self.channels) != stated:
            raise ValueError(
                f"channels_in and channels must be {stated} for these in_channels, out_channels and stride, got "
                f"{(self.channels_in, self.channels)}"
            )
        check_odd(self.kernel_size)
        check_weight("weight", self.weight, self._weight_shape)
        check_weight("hidden_bias", self.hidden_bias, (self.hidden_channels,))

    def bound_operands(self, operands: Operands) -> float:
        norm = self.bound_kernel(self._whole_kernel(operands))
        return max(1.0, up(norm * norm - 1))

    def _whole_kernel(self, operands: Operands) -> Tensor:
        """Return the whole kernel of V, and refuse operands that are not parts of V and of its transpose."""
        kernel, adjoint = operands[:2]
        transposed = adjoint_filter(adjoint, self.groups)
        whole = kernel if kernel.shape[1] * self.groups == self.channels else transposed
        inputs, outputs = kernel.shape[1], transposed.shape[1]
        if not torch.equal(whole[:, :inputs], kernel) or not torch.equal(whole[:, :outputs], transposed):
            raise ValueError("the kernels before and after the relu must be transposes of each other")
        return whole

    def round_operands(self, operands: Operands, signal: Signal, size: tuple[int, int]) -> Step:
        kernel, adjoint, *biases = operands
        pixels, gain = prod(size), self.lipschitz_bound()
        # ||V||, since gain = max(1, ||V||^2 - 1).
        norm = up(sqrt(1 + gain))
        bias_norm = up(euclidean_norm(biases[0]) * sqrt(pixels)) if biases else 0.0
        first = products(
            signal,
            length=prod(kernel.shape[1:]),
            magnitude=absolute_filter_norm(kernel, self.groups),
            gain=norm,
            outputs=len(kernel) * pixels,
            bias_norm=bias_norm,
        )
        hidden = signal.after(first, (len(kernel), *size))
        second = products(
            hidden,
            length=prod(adjoint.shape[1:]),
            magnitude=absolute_filter_norm(adjoint, self.groups),
            gain=norm,
            outputs=len(adjoint) * pixels,
        )
        change = hidden.after(second, (len(adjoint), *size))
        difference = UNIT * (signal.computed + change.computed) + TINY * 4 * sqrt(self.channels * pixels)
        error = norm * first.error + second.error + difference
        return Step(up(gain * signal.norm + norm * bias_norm), gain, up(error))

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.hidden_bias is None else []
        parts += [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []
        parts += [f"hidden_channels={self.hidden_channels}"] if self.hidden_channels != self.channels else []
        return ", ".join(parts)
