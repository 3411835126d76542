"""Convolutions divided by their norm."""

from collections.abc import Sequence
from functools import partial
from math import inf, prod, sqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional.convolution import check_padding_mode
from lipnet.functional.kernel_norms import StridedKernel, kernel_norm_bound, kernel_norm_estimate, strided_kernel
from lipnet.functional.rounding_error import Signal, Step, absolute_filter_norm, products
from lipnet.layers.arguments import check_groups, check_weight, pair
from lipnet.layers.cache import WeightCache
from lipnet.layers.norm_estimate import NormEstimate
from lipnet.layers.operands import OperandLayer, Operands
from lipnet.layers.scaling import SMALLEST_NORM

# Height and width of the circular maps on which a layer without `size` estimates its norm.
_POINTS = 16


class ScaledConv2d(OperandLayer):
    r"""Convolution divided by its norm: :math:`y = L * x / \|L\| + b`, with the arguments of ``nn.Conv2d``.

    L is the parameter ``weight``. Training divides by an estimate of the norm, from one step of power iteration per
    change of the weight; the gradient flows through it. Evaluation divides by a converged estimate that depends on the
    weight alone. `lipschitz_bound` bounds the norm of the resulting kernel, see
    `lipnet.functional.kernel_norms.kernel_norm_bound`. The bound exceeds 1 by about as much as the estimate falls short
    of the norm.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. Padding is ``"same"``, (k - 1) / 2 for an odd kernel, or a number below the kernel size;
            dilation is 1; the padding mode is ``"zeros"`` or ``"circular"``.
        size: height and width of the maps; with zero padding, of the largest maps. The bound then only covers the
            frequencies of these maps. None accepts maps of any size, but the bound of a 3 x 3 kernel is 1 % larger.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H', W'), as ``nn.Conv2d``. The stride must
        divide H and W.

    Raises:
        ValueError: for a setting that the bound does not cover, and for inputs of another shape or size.

    Source: Gouk et al., "Regularisation of neural networks by enforcing Lipschitz continuity", Machine Learning 2021
    (arXiv 1804.04368).

    Example:
        >>> layer = ScaledConv2d(3, 8, kernel_size=5, stride=2, size=16).eval()
        >>> layer(torch.zeros(1, 3, 16, 16)).shape, 1 <= layer.lipschitz_bound() < 1.1
        (torch.Size([1, 8, 8, 8]), True)
    """

    native_stride: ClassVar[bool] = True

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
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            in_channels, out_channels, kernel_size, stride, bias=bias, padding_mode=padding_mode, **options
        )
        self.groups = groups
        self.padding = _two_paddings(padding, self.kernel_size)
        self.size = None if size is None else pair(size, 2, "size")
        if pair(dilation, 2, "dilation") != (1, 1):
            raise ValueError(f"dilation must be 1, got {dilation}")
        self._check_settings()
        shape = self._weight_shape
        self._add_parameters(shape, **options)
        with torch.device("meta"):
            strided = self._strided(torch.empty(shape))
        taps = strided.weight.shape[-2:]
        rows, columns = self._frequencies(strided) or [1 if each == 1 else max(_POINTS, each) for each in taps]
        self.estimate = NormEstimate(strided.weight.shape[1] * groups, groups, (rows, columns), **options)
        self._vectors: WeightCache[Tensor] = WeightCache()
        self.reset_parameters()

    def _add_parameters(self, shape: tuple[int, ...], **options: Any) -> None:
        self.weight = nn.Parameter(torch.empty(shape, **options))

    def reset_parameters(self) -> None:
        """Draw normal weights of standard deviation 1 / sqrt(fan_in), and biases as for `OperandLayer`."""
        nn.init.normal_(self.weight, std=1 / sqrt(prod(self.weight.shape[1:])))
        self.reset_bias()
        with torch.no_grad():
            self.estimate.reset(self._strided(self.free_kernel(*self.weights())).weight)

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def free_kernel(self, *weights: Tensor) -> Tensor:
        """Compute the kernel before its division by the norm from the tensors of `weights`, differentiable."""
        return weights[0]

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        free = self.free_kernel(*weights)
        strided = self._strided(free).weight
        if self.training:
            norm = self.estimate(strided, self.weights())
        else:
            norm = kernel_norm_estimate(strided, self._converged(strided), self.groups, steps=0)[0]
        return (free / norm.clamp_min(SMALLEST_NORM),)

    def _converged(self, strided: Tensor) -> Tensor:
        """Return the vector at which evaluation takes the norm of the kernel after the stride."""
        if torch.compiler.is_compiling():
            return self.estimate.converged(strided)  # a trace cannot compare values
        compute = partial(self.estimate.converged, strided)
        return self._vectors.get(self.weights(), compute, settings=self._settings())

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        self._check_size((maps.shape[2], maps.shape[3]))
        if self.padding_mode == "zeros":
            return F.conv2d(maps, operands[0], None, self.stride, self.padding, groups=self.groups)
        rows, columns = self.padding
        padded = F.pad(maps, (columns, columns, rows, rows), mode="circular")
        return F.conv2d(padded, operands[0], None, self.stride, groups=self.groups)

    def bound_operands(self, operands: Operands) -> float:
        strided = self._strided(operands[0])
        # The search starts at 1, because the kernel was divided by an estimate of its norm.
        start = 1.0 if bool(operands[0].any()) else 0.0
        return kernel_norm_bound(strided.weight, self.groups, self._frequencies(strided), start)

    def round_operands(self, operands: Operands, signal: Signal, size: tuple[int, int]) -> Step:
        outputs = [
            (length + 2 * around - taps) // step + 1
            for length, around, taps, step in zip(size, self.padding, self.kernel_size, self.stride, strict=True)
        ]
        return products(
            signal,
            length=prod(operands[0].shape[1:]),
            magnitude=absolute_filter_norm(operands[0], self.groups),
            gain=self.lipschitz_bound(),
            outputs=self.out_channels * prod(outputs),
        )

    def lipschitz_estimate(self) -> float:
        """Return 1, about the norm of the divided kernel; infinity if a weight is not finite."""
        return 1.0 if all(bool(weight.isfinite().all()) for weight in self.weights()) else inf

    def layer_facts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the size of the circular maps on whose frequencies the bound is proved."""
        frequencies = self._frequencies(self._strided(self.weight.detach()))
        return {"frequencies": "any size" if frequencies is None else list(frequencies)}

    def _strided(self, kernel: Tensor) -> StridedKernel:
        return strided_kernel(kernel, self.stride, self.padding)

    def _frequencies(self, strided: StridedKernel) -> tuple[int, int] | None:
        """Return the size of the circular maps on whose frequencies the bound is proved; None for maps of any size.

        They are at least as large as the kernel. With zero padding, they contain the layer's maps after the stride, and
        the pixels that the kernel reaches beyond. With circular padding, they are a multiple of the layer's maps, and
        their frequencies include the frequencies of these.
        """
        if self.size is None:
            return None
        circular = self.padding_mode == "circular"
        lengths = [length // step for length, step in zip(self.size, self.stride, strict=True)]
        rows, columns = (
            length * -(-taps // length) if circular else max(length + beyond, taps)
            for length, beyond, taps in zip(lengths, strided.reach, strided.weight.shape[-2:], strict=True)
        )
        return rows, columns

    def check(self) -> None:
        super().check()
        self._check_settings()
        check_weight("weight", self.weight, self._weight_shape)

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def _check_settings(self) -> None:
        check_groups(self.groups, {"in_channels": self.in_channels, "out_channels": self.out_channels})
        if min(*self.kernel_size, *self.stride) < 1:
            raise ValueError(f"kernel_size and stride must be positive, got {self.kernel_size} and {self.stride}")
        check_padding_mode(self.padding_mode)
        same = [2 * around + 1 == taps for around, taps in zip(self.padding, self.kernel_size, strict=True)]
        if self.padding_mode == "circular" and not all(same):
            raise ValueError(f"circular padding must be 'same', with an odd kernel, got {self.padding}")
        if self.size is not None and any(
            length < 1 or length % step for length, step in zip(self.size, self.stride, strict=True)
        ):
            raise ValueError(f"size must be positive and divisible by the stride {self.stride}, got {self.size}")

    def _check_size(self, size: tuple[int, int]) -> None:
        if self.size is None:
            return
        exactly = self.padding_mode == "circular"
        if size != self.size if exactly else any(own > most for own, most in zip(size, self.size, strict=True)):
            kind = "of" if exactly else "of at most"
            raise ValueError(f"{type(self).__name__} was made for maps {kind} size={self.size}, got {size}")

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts.append(f"padding={self.padding}, padding_mode={self.padding_mode!r}")
        if self.groups > 1:
            parts.append(f"groups={self.groups}")
        if self.size is not None:
            parts.append(f"size={self.size}")
        return ", ".join(parts)


def _two_paddings(padding: str | int | Sequence[int], kernel: tuple[int, int]) -> tuple[int, int]:
    if padding == "same":
        if any(taps % 2 == 0 for taps in kernel):
            raise ValueError(f"padding 'same' needs an odd kernel_size, got {kernel}: state the padding as a number")
        return kernel[0] // 2, kernel[1] // 2
    if isinstance(padding, str):
        raise ValueError(f"padding must be 'same' or a number of pixels, got {padding!r}")
    rows, columns = pair(padding, 2, "padding")
    if not (0 <= rows < kernel[0] and 0 <= columns < kernel[1]):
        raise ValueError(f"padding must be at least 0 and below kernel_size {kernel}, got {padding}")
    return rows, columns
