"""Circular convolutions by products with constant Fourier matrices, for certificates, and a bound on their rounding."""

from math import inf, isfinite, sqrt

import torch
from torch import Tensor

from lipnet.functional.constants import constant
from lipnet.functional.rounding_error import ELEMENTARY, Signal, Step, absolute_norm, products
from lipnet.functional.unit_roots import unit_roots

# Roundings of an entry of a Fourier matrix: three of the angle, those of the cosine or sine, and four of the scale.
_ENTRY = 3 + ELEMENTARY + 4


def real_form(response: Tensor) -> Tensor:
    """Return complex matrices R as real ones, [[Re R, -Im R], [Im R, Re R]], in the order of `spectral_products`.

    Args:
        response: (H, W // 2 + 1, groups, m, n).

    Returns:
        (W // 2 + 1, H, groups, 2 m, 2 n).
    """
    real, imaginary = response.real.transpose(0, 1), response.imag.transpose(0, 1)
    rows = torch.cat([real, -imaginary], dim=-1), torch.cat([imaginary, real], dim=-1)
    return torch.cat(rows, dim=-2)


def spectral_products(x: Tensor, matrices: Tensor) -> Tensor:
    """Convolve circularly, by multiplication with a frequency response, with plain sums of products as transforms.

    This is the same function as `lipnet.functional.spectral.apply_spectral`; `spectral_products_step` bounds its
    rounding.

    Args:
        x: real feature maps (B, c, H, W).
        matrices: `real_form` of the response.

    Returns:
        Feature maps (B, c_out, H, W), differentiable.

    Example:
        >>> from lipnet.functional.spectral import apply_spectral
        >>> x, response = torch.rand(1, 2, 4, 6), torch.rand(4, 4, 1, 2, 2, dtype=torch.complex64)
        >>> torch.allclose(spectral_products(x, real_form(response)), apply_spectral(x, response), atol=1e-5)
        True
    """
    batch, channels, height, width = x.shape
    half, _, groups = matrices.shape[:3]
    out = groups * matrices.shape[3] // 2
    across = _across(width, dtype=x.dtype, device=x.device)
    down = _down(height, dtype=x.dtype, device=x.device)
    # The images come last, so that every stage is a product with a matrix on the left and all copies move long rows.
    pixels = x.reshape(batch, channels * height * width).t().contiguous().view(channels, height, width, batch)
    rows = across @ pixels.permute(2, 1, 0, 3).reshape(width, height * channels * batch)
    spectrum = torch.bmm(down.expand(half, -1, -1), rows.view(half, 2 * height, channels * batch))
    grouped = _swapped(spectrum.view(half, height, 2, groups, channels // groups * batch))
    product = matrices @ grouped.reshape(half, height, groups, 2 * channels // groups, batch)
    parts = _swapped(product.view(half, height, groups, 2, out // groups * batch))
    rows = torch.bmm(down.mT.expand(half, -1, -1), parts.reshape(half, 2 * height, out * batch))
    maps = (across.mT @ rows.view(2 * half, height * out * batch)).view(width, height, out, batch)
    return maps.permute(2, 1, 0, 3).reshape(out * height * width, batch).t().reshape(batch, out, height, width)


def _swapped(values: Tensor) -> Tensor:
    """Swap the axes of parts (real, imaginary) and groups: (..., 2, groups, n) to (..., groups, 2, n), and back."""
    return values.transpose(2, 3)


def spectral_products_step(signal: Signal, response: Tensor, size: tuple[int, int], gain: float) -> Step:
    """Bound the rounding of `spectral_products` with float64 operands.

    The function is y = P^T Q^T R Q P x: P transforms along W, Q along H, and R holds the matrices of the frequencies,
    all in real arithmetic. P scales each column of the half spectrum by sqrt(m / W), where m, 1 or 2, is the number of
    columns of the full spectrum that it stands for. So P and Q are isometries, P^T and Q^T have norm 1, and
    ||y|| <= max_w ||R(w)|| ||x||, whether or not R(-w) is conj(R(w)).

    The exact function has the exact cosines and sines. A computed entry of P or Q is a (1 + d) with an exact entry a,
    |d| <= gamma_k and k = ELEMENTARY + 7 roundings: the angle lies within an eighth of a turn, where sine and cosine do
    not enlarge relative errors, and 0 is exact. A sum of n products with such entries differs from the exact one by at
    most gamma_(n+k) sum |a| |x|, so each of the five stages is a step of `products` with k more terms.

    A row of R in real form has 2 c/groups products, and || |R| || is the norm of |Re R| + |Im R|.

    Args:
        signal: x.
        response: R, (H, W // 2 + 1, groups, c_out/groups, c/groups), complex128.
        size: H and W.
        gain: an upper bound on the norms of all R(w).
    """
    if not isfinite(gain):
        return Step(inf, inf, inf)
    (height, width), (half, groups, out, inner) = size, response.shape[1:]
    across = _across(width, dtype=torch.float64, device=torch.device("cpu"))
    down = _down(height, dtype=torch.float64, device=torch.device("cpu"))
    entries = 2 * height * half * groups
    # Length, magnitude, gain and number of results of P, Q, R, Q^T and P^T.
    stages = [
        (width + _ENTRY, absolute_norm(across), 1.0, entries * inner),
        (2 * height + _ENTRY, absolute_norm(down), 1.0, entries * inner),
        (2 * inner, absolute_norm(response.real.abs() + response.imag.abs()), gain, entries * out),
        (2 * height + _ENTRY, absolute_norm(down.mT), 1.0, entries * out),
        (2 * half + _ENTRY, absolute_norm(across.mT), 1.0, height * width * groups * out),
    ]
    whole = Step(signal.norm)
    for length, magnitude, norm, outputs in stages:
        step = products(signal, length=length, magnitude=magnitude, gain=norm, outputs=outputs)
        signal, whole = signal.after(step, (outputs,)), whole.then(step)
    return whole


@constant
def _across(width: int) -> Tensor:
    """Return P (2 (W // 2 + 1), W), which maps a row of pixels to real and imaginary parts, interleaved."""
    half = width // 2 + 1
    # Frequencies 0 and W / 2 are their own conjugates; every other one stands for two.
    alone = [k == 0 or 2 * k == width for k in range(half)]
    scale = torch.tensor([sqrt((1 if each else 2) / width) for each in alone], dtype=torch.float64)
    cosine, sine = _turns(width, half)
    return (torch.stack([cosine, -sine], dim=1) * scale.view(-1, 1, 1)).view(2 * half, width)


@constant
def _down(height: int) -> Tensor:
    """Return Q (2 H, 2 H), the unitary Fourier transform along H.

    Inputs are all real parts, then all imaginary parts. In the results, they are interleaved.
    """
    cosine, sine = _turns(height, height)
    blocks = torch.stack([torch.cat([cosine, sine], dim=1), torch.cat([-sine, cosine], dim=1)], dim=1)
    return blocks.view(2 * height, 2 * height) * sqrt(1 / height)


def _turns(length: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of 2 pi j k / length for the first frequencies j and all k < length."""
    roots = unit_roots(torch.outer(torch.arange(frequencies), torch.arange(length)), length)
    return roots.real, roots.imag
