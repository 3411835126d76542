"""Base classes of layers that multiply each frequency of the feature maps by a matrix."""

from abc import abstractmethod
from collections.abc import Sequence
from math import inf, isfinite, prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional.contractions import contractions, norm_of_matrices
from lipnet.functional.frequency import frequency_response
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, products
from lipnet.functional.spectral import apply_spectral
from lipnet.functional.spectral_products import real_form, spectral_products, spectral_products_step
from lipnet.layers.arguments import check_convolution, check_groups, check_odd, check_weight, sizes
from lipnet.layers.base import LinearFeatures
from lipnet.layers.cache import check_not_batched
from lipnet.layers.operands import OperandLayer, Operands


class FrequencyLayer(OperandLayer):
    """A convolution whose frequency response is computed from the response of a free filter, frequency by frequency.

    A subclass implements ``matrices(weights, size)``, which returns the operand: the response (H, W // 2 + 1, groups,
    c_out/groups, c_in/groups) for maps of one size, or the real matrices (groups, c_out/groups, c_in/groups) of a 1 x 1
    kernel. Evaluation shrinks the matrices slightly (`lipnet.functional.contractions.contractions`), so that the bound
    is exactly 1.

    The response is applied by Fourier transforms, or by products with constant matrices within
    `lipnet.layers.explicit.explicit_products`. If the kernel is larger than the map, its taps wrap around.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value (k - 1) / 2, and dilation 1. A stride
            is space-to-depth before the convolution. With padding mode ``"zeros"``, the maps are framed by (k - 1) / 2
            zeros, convolved circularly, and cut to their size.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.
    """

    by_size: ClassVar[bool] = True
    weight: nn.Parameter

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
        padding_mode: str = "circular",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if self.dimensions:
            check_convolution(in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode)
            inner = in_channels * prod(sizes(stride, 2, "stride"))
            check_groups(groups, {"in_channels * stride^2": inner, "out_channels": out_channels})
        else:
            check_groups(groups, {"in_features": in_channels, "out_features": out_channels})
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
        self.groups = groups
        # Map size of the last forward pass in training, for whose matrices the bound in training holds.
        self._trained_size = self.kernel_size

    @property
    def group_shape(self) -> tuple[int, int]:
        """Return the shape of a group's matrices, (c_out/groups, c_in/groups), with c_in counted after the stride."""
        return self.out_channels // self.groups, self.in_channels * prod(self.stride) // self.groups

    @abstractmethod
    def matrices(self, weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Compute the operand for maps of this size, differentiable, from `weights` in float32 or float64."""

    def response(self, weight: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the response of a filter (c, n, kh, kw) for maps of this size; real matrices for a 1 x 1 kernel."""
        if self.kernel_size == (1, 1):
            return weight.view(self.groups, -1, weight.shape[1])
        return frequency_response(weight, size, self.groups)

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.group_shape[1], *self.kernel_size

    def check(self) -> None:
        super().check()
        check_odd(self.kernel_size)
        check_weight("weight", self.weight, self._weight_shape)

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        # Half precision has neither Fourier transforms nor Cholesky decompositions.
        precise = [weight.to(torch.promote_types(weight.dtype, torch.float32)) for weight in weights]
        return (self.matrices(precise, size),)

    def _evaluated(self, weights: Sequence[Tensor], size: tuple[int, int]) -> Operands:
        check_not_batched(type(self).__name__, weights)
        (matrices,) = self.compute_operands(*(weight.double() for weight in weights), size=size)
        real = torch.promote_types(weights[0].dtype, torch.float32)
        return (contractions(matrices, real.to_complex() if matrices.is_complex() else real),)

    def operands_in_use(self, size: tuple[int, int]) -> Operands:
        if self.training:
            self._trained_size = size
        return super().operands_in_use(self._framed(size))

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        (matrices,) = operands
        size, dtype = (maps.shape[-2], maps.shape[-1]), maps.dtype
        maps = maps.to(matrices.real.dtype)
        if not matrices.is_complex():
            return _pointwise(maps, matrices).to(dtype)
        down, across = self._frame
        if self.padding_mode == "zeros":
            maps = F.pad(maps, (across, across, down, down))
        if self.explicit and not self.training:
            maps = spectral_products(maps, self._explicit_form(matrices, (maps.shape[-2], maps.shape[-1])))
        else:
            maps = apply_spectral(maps, matrices)
        if self.padding_mode == "zeros":
            maps = maps[..., down : down + size[0], across : across + size[1]]
        return maps.to(dtype)

    def bound_operands(self, operands: Operands) -> float:
        return norm_of_matrices(operands[0])

    def round_operands(self, operands: Operands, signal: Signal, size: tuple[int, int]) -> Step:
        (matrices,) = operands
        gain = self._bound(operands)
        if not isfinite(gain):
            return Step(inf, inf, inf)
        if matrices.is_complex():
            return spectral_products_step(signal, matrices, self._framed(size), gain)
        return products(
            signal,
            length=matrices.shape[-1],
            magnitude=absolute_norm(matrices),
            gain=gain,
            outputs=self.out_channels * prod(size),
        )

    def lipschitz_bound(self) -> float:
        """Return an upper bound on the Lipschitz constant in the present mode.

        In evaluation it is 1, for maps of any size. In training it holds for the matrices of the last forward pass, and
        is about 1e-6 above 1 in float32. It is infinite if a weight is not finite.
        """
        if not self.training:
            return super().lipschitz_bound()
        with torch.no_grad():
            return self._bound(self.operands_in_use(self._trained_size))

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}"]
        if self.dimensions:
            parts.append(f"kernel_size={self.kernel_size}, stride={self.stride}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.dimensions and self.padding_mode != "circular":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)

    @property
    def _frame(self) -> tuple[int, int]:
        """Return how many rows and columns of zeros pad each side of the maps."""
        return (self.kernel_size[0] // 2, self.kernel_size[1] // 2) if self.padding_mode == "zeros" else (0, 0)

    def _framed(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the padded maps, on which the operands depend."""
        if self.kernel_size == (1, 1):
            return 1, 1
        down, across = self._frame
        return size[0] + 2 * down, size[1] + 2 * across

    def _explicit_form(self, matrices: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the real form of the operand in evaluation, cached beside the operand."""
        prepared = self._prepared()
        key = "real form", size
        # Cached with its source: another thread may have changed the weights since the matrices were computed.
        form, source = prepared.operands.get(key, (None, None))
        if form is None or source is not matrices:
            with torch.inference_mode(False), torch.no_grad():
                form = real_form(matrices)
            prepared.store(key, (form, matrices))
        return form


class LinearByFrequency(LinearFeatures, FrequencyLayer):
    """A linear layer, computed as a 1 x 1 convolution on one pixel."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **options: Any) -> None:
        super().__init__(in_features, out_features, kernel_size=1, bias=bias, **options)


def _pointwise(maps: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each pixel by the matrix of its group."""
    groups, out, inner = matrices.shape
    if groups == 1 and maps.shape[-2:] == (1, 1):
        return F.linear(maps.flatten(1), matrices[0])[:, :, None, None]
    return F.conv2d(maps, matrices.reshape(groups * out, inner, 1, 1), groups=groups)
