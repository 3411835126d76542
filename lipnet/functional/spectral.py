"""The exponential of a skew convolution with circular padding, as one matrix for each frequency."""

from collections.abc import Sequence
from math import lcm
from typing import Any

import torch
from torch import Tensor

from lipnet.functional.constants import constant
from lipnet.functional.exponential import matrix_function
from lipnet.functional.frequency import frequency_response
from lipnet.functional.unit_roots import unit_roots

# Up to this many pixels, a Fourier transform is computed as one matrix product.
_PIXELS_OF_A_TRANSFORM_MATRIX = 64


def spectral_exponential(
    weight: Tensor, size: tuple[int, int], groups: int = 1, *, coefficients: Sequence[float] | None = None
) -> Tensor:
    """Return exp(J) with circular padding, or a polynomial p(J) in its place, at each frequency of one map size.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        size: H and W of the feature maps.
        groups: number of groups.
        coefficients: of p, lowest degree first; None for the exponential itself, whose matrices are unitary.

    Returns:
        Complex (H, W // 2 + 1, groups, c/groups, c/groups), differentiable.

    Example:
        >>> rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).view(2, 2, 1, 1)
        >>> response = spectral_exponential(rotation, (4, 6))
        >>> response.shape
        torch.Size([4, 4, 1, 2, 2])
        >>> apply_spectral(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6), response)[0, :, 0, 0]
        tensor([ 0.5403, -0.8415])
    """
    return matrix_function(frequency_response(weight, size, groups), coefficients)


def apply_spectral(x: Tensor, response: Tensor) -> Tensor:
    """Convolve circularly, by multiplication with a frequency response.

    The gradient of x is again such a convolution, with the conjugate transposes, and takes two transforms. The spectrum
    of x is saved for the gradient of the response.

    Args:
        x: real feature maps (B, c, H, W).
        response: complex (H, W // 2 + 1, groups, c_out/groups, c/groups).

    Returns:
        Feature maps (B, c_out, H, W), differentiable.
    """
    if x.shape[0] == 0:  # some torch releases cannot transform an empty batch
        empty = x.new_zeros(0, response.shape[2] * response.shape[3], *_size(x))
        return empty + 0 * (x.sum() + response.real.sum())
    if torch.is_grad_enabled() and (x.requires_grad or response.requires_grad):
        maps: Tensor = _SpectralConvolution.apply(x, response)[0]
        return maps
    return _maps(response @ _spectrum(x, response.shape[2]), _size(x))


class _SpectralConvolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = _spectrum(x, response.shape[2])
        maps = _maps(response @ spectrum, _size(x))
        # Autograd refuses in-place changes of a view that a custom function returns; compilers do not.
        return maps.clone() if not torch.compiler.is_compiling() and maps._is_view() else maps, spectrum

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None]:
        x, response, spectrum = ctx.saved_tensors
        groups = response.shape[2]
        if torch.is_grad_enabled():
            # The saved spectrum has no graph, which a second derivative needs.
            spectrum = _spectrum(x, groups)
        received = _spectrum(gradient, groups)
        x_gradient = _maps(response.mH @ received, _size(x)) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return x_gradient, None
        shares = _shares(_size(x), dtype=gradient.dtype, device=gradient.device)
        return x_gradient, (received @ spectrum.mH) * shares.view(-1, 1, 1, 1)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


@constant
def _shares(size: tuple[int, int]) -> Tensor:
    """Return the weight of each column of the half spectrum in the inverse transform, (W // 2 + 1,).

    It is 2 / (H W), or 1 / (H W) for the columns that are their own conjugates.
    """
    columns = torch.full((size[1] // 2 + 1,), 2.0, dtype=torch.float64)
    columns[0] = 1
    if size[1] % 2 == 0:
        columns[-1] = 1
    return columns / (size[0] * size[1])


def _spectrum(x: Tensor, groups: int) -> Tensor:
    """Return ``torch.fft.rfft2`` as (H, W // 2 + 1, groups, c/groups, B); on small maps by a matrix (faster)."""
    size = _size(x)
    if size[0] * size[1] > _PIXELS_OF_A_TRANSFORM_MATRIX:
        spectrum = torch.fft.rfft2(x)
    else:
        # Batched gradients do not support flatten and unflatten, so shapes are spelled out.
        product = x.reshape(*x.shape[:2], size[0] * size[1]) @ _transform(size, dtype=x.dtype, device=x.device)
        spectrum = torch.view_as_complex(product.view(*x.shape[:2], size[0], size[1] // 2 + 1, 2))
    columns: Tensor = spectrum.permute(2, 3, 1, 0)
    return columns.reshape(*columns.shape[:2], groups, x.shape[1] // groups, x.shape[0])


def _maps(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """Invert `_spectrum`."""
    rows, columns, groups, channels, batch = spectrum.shape
    half = spectrum.reshape(rows, columns, groups * channels, batch).permute(3, 2, 0, 1)
    if size[0] * size[1] > _PIXELS_OF_A_TRANSFORM_MATRIX:
        maps: Tensor = torch.fft.irfft2(half, s=size)
        return maps
    parts = torch.view_as_real(half.contiguous()).view(batch, groups * channels, rows * columns * 2)
    maps = parts @ _inverse_transform(size, dtype=parts.dtype, device=parts.device)
    return maps.view(batch, groups * channels, *size)


@constant
def _transform(size: tuple[int, int]) -> Tensor:
    """Return the matrix (H W, H (W // 2 + 1) 2) from pixels to the real and imaginary parts of their half spectrum."""
    return torch.view_as_real(_waves(size)).flatten(1)


@constant
def _inverse_transform(size: tuple[int, int]) -> Tensor:
    """Return the inverse of `_transform`, (H (W // 2 + 1) 2, H W)."""
    shares = _shares(size, dtype=torch.float64, device=torch.device("cpu")).repeat(size[0])
    return torch.view_as_real(_waves(size) * shares).flatten(1).T.contiguous()


def _waves(size: tuple[int, int]) -> Tensor:
    """Return e^{-i w u} for every pixel u and frequency w of the half spectrum: (H W, H (W // 2 + 1))."""
    length = lcm(*size)
    rows, columns = (torch.arange(each) for each in size)
    down = torch.outer(rows, rows) * (length // size[0])
    across = torch.outer(columns, columns[: size[1] // 2 + 1]) * (length // size[1])
    turns = down[:, None, :, None] + across[None, :, None, :]
    return unit_roots(-turns.reshape(size[0] * size[1], -1), length)
