"""Convolutions divided by their norm: plain ones, and the linear residual convolution of LiResNet."""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional import PADDING_MODES
from lipnet.functional.autocast import autocast_dtype, without_autocast
from lipnet.functional.kernel_norms import kernel_norm_bound, kernel_norm_estimate, strided_kernel
from lipnet.functional.rounding_error import Signal, Step, absolute_filter_norm, euclidean_norm, products, up
from lipnet.layers.arguments import sizes
from lipnet.layers.base import LipschitzModule
from lipnet.layers.cache import WeightCache
from lipnet.layers.norm_estimate import NormEstimate

# Height and width of the circular maps on which a layer without `size` estimates its norm.
_POINTS = 16
# Dividing by smaller norms would be unstable.
_SMALLEST_NORM = 1e-12


class PreparedKernel(NamedTuple):
    """The kernel of an evaluation, and the bound on its norm."""

    kernel: Tensor
    bound: float
    vector: Tensor


class ScaledConv2d(LipschitzModule):
    r"""Convolution divided by its norm: :math:`y = L * x / \|L\| + b`, with the arguments of ``nn.Conv2d``.

    Training divides by an estimate of the norm, one step of power iteration per change of the weight, through which the
    gradient flows. Evaluation divides by a converged estimate that depends on the weight alone. `lipschitz_bound` then
    bounds the norm of the very kernel that is convolved with, see `lipnet.functional.kernel_norms.kernel_norm_bound`.
    It is about 1, and lies above it by what the estimate falls short of.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. Padding is ``"same"``, (k - 1) / 2 for an odd kernel, or a number below the kernel size;
            dilation is 1; the padding mode is ``"zeros"`` or ``"circular"``.
        size: height and width of the maps, the largest ones with zero padding. The bound then uses the frequencies of
            these maps alone. None accepts maps of any size, for a bound that is 1 % larger for a 3 x 3 kernel.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) to (B, out_channels, H', W'), as ``nn.Conv2d``.

    Raises:
        ValueError: for a setting that the bound does not cover, and for inputs of another shape or size.

    Example:
        >>> layer = ScaledConv2d(3, 8, kernel_size=5, stride=2, size=16).eval()
        >>> layer(torch.zeros(1, 3, 16, 16)).shape, layer.lipschitz_bound() < 1.02
        (torch.Size([1, 8, 8, 8]), True)
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
        size: int | Sequence[int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups, self.padding_mode = (
            in_channels,
            out_channels,
            groups,
            padding_mode,
        )
        self.kernel_size, self.stride = _two(kernel_size), _two(stride)
        self.padding = _padding(padding, self.kernel_size)
        self.size = None if size is None else _two(size)
        self._check_settings(dilation)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self._add_parameters(shape, bias, device, dtype)
        self._cache: WeightCache[PreparedKernel] = WeightCache()
        with torch.device("meta"):
            strided = self._strided(torch.empty(shape))
        taps = strided.weight.shape[-2:]
        points = self._frequencies(strided.reach) or tuple(1 if each == 1 else max(_POINTS, each) for each in taps)
        inputs = strided.weight.shape[1] * groups
        self.estimate = NormEstimate(inputs, groups, (points[0], points[1]), device, dtype)
        self.reset_parameters()

    def _add_parameters(
        self, shape: tuple[int, ...], bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype)) if bias else None

    def reset_parameters(self) -> None:
        """Draw normal weights of standard deviation 1 / sqrt(fan_in), and biases as in ``nn.Conv2d``."""
        scale = 1 / sqrt(prod(self.weight.shape[1:]))
        nn.init.normal_(self.weight, std=scale)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -scale, scale)
        with torch.no_grad():
            self.estimate.reset(self._strided(self.free_kernel(self.weight)).weight)

    def free_kernel(self, weight: Tensor) -> Tensor:
        """Return the kernel before it is divided by its norm, in the dtype of the weight given, differentiable."""
        return weight

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        kernel, padding = self.kernel(), self.padding
        if self.padding_mode == "circular":
            x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode="circular")
            padding = (0, 0)
        return F.conv2d(x, kernel, self.bias, self.stride, padding, groups=self.groups)

    def kernel(self) -> Tensor:
        """Return the kernel of the present mode, divided by its norm, differentiable; training advances the vector."""
        with without_autocast(self.weight.device):
            if self.training:
                free = self.free_kernel(self.weight)
                return free / self.estimate(self._strided(free).weight, self._operands()).clamp_min(_SMALLEST_NORM)
            if torch.is_grad_enabled() and self.weight.requires_grad:
                return self._scaled(self.prepared().vector)
            return self.prepared().kernel

    def prepared(self) -> PreparedKernel:
        """Return the kernel and the bound of evaluation, cached until the parameters change."""
        everything = torch.cat([each.detach().flatten() for each in self._operands()])
        return self._cache.get(everything, self._prepare)

    def _prepare(self) -> PreparedKernel:
        vector = self.estimate.converged(self._strided(self.free_kernel(self.weight.double())).weight)
        kernel = self._scaled(vector).detach()
        return PreparedKernel(kernel, self._bound(kernel), vector)

    def _scaled(self, vector: Tensor) -> Tensor:
        """Return the kernel divided by its norm at a given vector, computed in float64."""
        free = self.free_kernel(self.weight.double())
        norm = kernel_norm_estimate(self._strided(free).weight, vector, self.groups, steps=0)[0]
        return (free / norm.clamp_min(_SMALLEST_NORM)).to(self.weight.dtype)

    def _bound(self, kernel: Tensor) -> float:
        strided = self._strided(kernel)
        start = 1.0 if bool(kernel.any()) else 0.0
        return kernel_norm_bound(strided.weight, self.groups, self._frequencies(strided.reach), start)

    def lipschitz_bound(self) -> float:
        """Bound the norm of the kernel in use by its frequency response; infinite for weights that are not finite."""
        if not self.training:
            return self.prepared().bound
        with torch.no_grad(), without_autocast(self.weight.device):
            free = self.free_kernel(self.weight)
            norm = self.estimate.current(self._strided(free).weight, self._operands())
            return self._bound(free / norm.clamp_min(_SMALLEST_NORM))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of a convolution by plain sums of products."""
        kernel = self.prepared().kernel
        bias = 0.0 if self.bias is None else up(euclidean_norm(self.bias) * sqrt(prod(shape[1:])))
        return products(
            signal,
            length=prod(kernel.shape[1:]),
            magnitude=absolute_filter_norm(kernel, self.groups),
            gain=self.prepared().bound,
            outputs=prod(shape),
            bias_norm=bias,
        )

    def layer_facts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the frequencies at which the bound is proved."""
        strided = self._strided(self.weight.detach())
        return {"frequencies": list(self._frequencies(strided.reach) or []) or "any size"}

    def train(self, mode: bool = True) -> Self:
        self._cache.clear()
        return super().train(mode)

    def _operands(self) -> list[Tensor]:
        """Return the parameters of which the kernel is a function."""
        return [self.weight]

    def _strided(self, kernel: Tensor) -> Any:
        return strided_kernel(kernel, self.stride, self.padding)

    def _frequencies(self, reach: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size of circular maps that contain the layer's after the stride; None for maps of any size."""
        if self.size is None:
            return None
        rows, columns = (
            -(-length // step) + (0 if self.padding_mode == "circular" else beyond)
            for length, step, beyond in zip(self.size, self.stride, reach, strict=True)
        )
        return rows, columns

    def _check_settings(self, dilation: int | Sequence[int]) -> None:
        if min(self.in_channels, self.out_channels, self.groups) < 1 or (
            self.in_channels % self.groups or self.out_channels % self.groups
        ):
            raise ValueError(
                f"groups must divide the channels, got {self.groups} groups with {self.in_channels} channels in, "
                f"{self.out_channels} out"
            )
        if min(*self.kernel_size, *self.stride) < 1:
            raise ValueError(f"kernel_size and stride must be positive, got {self.kernel_size} and {self.stride}")
        if _two(dilation) != (1, 1):
            raise ValueError(f"dilation must be 1, got {dilation}")
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {PADDING_MODES}, got {self.padding_mode!r}")
        same = tuple((taps - 1) // 2 for taps in self.kernel_size)
        if self.padding_mode == "circular" and not (
            self.padding == same and all(taps % 2 for taps in self.kernel_size)
        ):
            raise ValueError(f"circular padding must be 'same', for an odd kernel, got {self.padding}")
        if self.size is not None and (
            min(self.size) < 1
            or self.padding_mode == "circular"
            and any(length % step for length, step in zip(self.size, self.stride, strict=True))
        ):
            raise ValueError(f"size must be positive, and divisible by the stride if circular, got {self.size}")

    def _check_input(self, x: Tensor) -> None:
        if x.dtype != self.weight.dtype and autocast_dtype(x.device) is None:
            raise ValueError(
                f"{type(self).__name__} needs an input of its weight's dtype, {self.weight.dtype}, got {x.dtype}"
            )
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} needs an input of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        size = (x.shape[2], x.shape[3])
        if self.padding_mode == "circular" and any(
            length % step or length < taps
            for length, step, taps in zip(size, self.stride, self.kernel_size, strict=True)
        ):
            raise ValueError(
                f"{type(self).__name__} with circular padding needs maps divisible by the stride {self.stride} and at "
                f"least as large as the kernel {self.kernel_size}, got {size}"
            )
        if self.size is None:
            return
        exactly = self.padding_mode == "circular"
        if size != self.size if exactly else any(a > b for a, b in zip(size, self.size, strict=True)):
            kind = "of" if exactly else "of at most"
            raise ValueError(f"{type(self).__name__} was made for maps {kind} size={self.size}, got {size}")

    def extra_repr(self) -> str:
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        size = "" if self.size is None else f", size={self.size}"
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}{groups}, padding_mode={self.padding_mode!r}{size}"
        )


class LiRes(ScaledConv2d):
    r"""Linear residual convolution: :math:`y = (x + \gamma K * x / \sqrt{d})\,/\,\|\cdot\| + b`.

    The residual connection is a part of the kernel, :math:`\delta + \gamma K / \sqrt{d}`, with the unit kernel delta,
    one learned gamma for each output channel, and d the number of such layers in a row. The layer is affine; the
    activation follows it. Its norm :math:`\sup_w \|I + \gamma A(w) / \sqrt{d}\|` is that of the whole kernel, estimated
    in training, and bounded for certificates as in `ScaledConv2d`.

    Args:
        channels in and out, which must be equal, and the rest: as in `ScaledConv2d`, with stride 1 and an odd kernel.
        depth: d.

    Raises:
        ValueError: for settings under which the input cannot be added to the output.

    Source: LiResNet: Hu et al., "Unlocking deterministic robustness certification on ImageNet", NeurIPS 2023 (arXiv
    2301.12549).

    Example:
        >>> LiRes(8, 8, depth=12, size=16).eval().lipschitz_bound() < 1.01
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
        kernel, steps = _two(kernel_size), _two(stride)
        same = tuple(taps // 2 for taps in kernel)
        even = any(taps % 2 == 0 for taps in kernel)
        if in_channels != out_channels or steps != (1, 1) or even or _padding(padding, kernel) != same:
            raise ValueError(
                "LiRes adds its input, so it needs equal channels, stride 1, an odd kernel and padding 'same', got "
                f"{in_channels} channels in, {out_channels} out, kernel_size {kernel_size}, stride {stride}, padding "
                f"{padding!r}"
            )
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        # First, because the base class draws the weights and estimates their norm.
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

    def _add_parameters(
        self, shape: tuple[int, ...], bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super()._add_parameters(shape, bias, device, dtype)
        self.gamma = nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Set gamma to 1, and the rest as in `ScaledConv2d`."""
        nn.init.ones_(self.gamma)
        super().reset_parameters()

    def free_kernel(self, weight: Tensor) -> Tensor:
        gamma = self.gamma.to(weight.dtype).view(-1, 1, 1, 1)
        return self._identity(weight) + gamma * weight / sqrt(self.depth)

    def _identity(self, weight: Tensor) -> Tensor:
        """Return the unit kernel delta: 1 at the middle tap of each channel's own input."""
        outputs, inputs, rows, columns = weight.shape
        own = torch.arange(outputs, device=weight.device) % inputs
        middle = torch.zeros(rows * columns, dtype=weight.dtype, device=weight.device)
        middle[rows * columns // 2] = 1
        channels = F.one_hot(own, inputs).to(weight.dtype)
        return (channels.unsqueeze(-1) * middle).view(outputs, inputs, rows, columns)

    def _operands(self) -> list[Tensor]:
        return [self.weight, self.gamma]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, depth={self.depth}"


def _two(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = sizes(value, 2)
    return first, second


def _padding(padding: str | int | Sequence[int], kernel: tuple[int, int]) -> tuple[int, int]:
    if padding == "same":
        if any(taps % 2 == 0 for taps in kernel):
            raise ValueError(f"padding 'same' needs an odd kernel_size, got {kernel}: state the padding as a number")
        return kernel[0] // 2, kernel[1] // 2
    if isinstance(padding, str):
        raise ValueError(f"padding must be 'same' or a number of pixels, got {padding!r}")
    two = _two(padding)
    if any(not 0 <= pixels < taps for pixels, taps in zip(two, kernel, strict=True)):
        raise ValueError(f"padding must be at least 0 and below kernel_size {kernel}, got {padding}")
    return two
