"""Exact exponentials of skew convolutions: as a matrix for all pixels, or for each frequency."""

from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.convolution import jacobian_matrices
from lipnet.functional.norms import frequency_response

# Up to so many pixels a Fourier transform is one matrix product.
_PIXELS_OF_A_TRANSFORM_MATRIX = 64
# ||Q^* Q - I||_F beyond which no rounding in double precision explains that a matrix is not orthogonal.
_LARGEST_DEFECT = 1e-6


def dense_exponential(weight: Tensor, size: tuple[int, int], groups: int = 1, padding_mode: str = "zeros") -> Tensor:
    """exp(J) as a matrix for each group.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        size: H and W of the maps; (1, 1) for a 1 x 1 kernel, whose matrix is the same at each pixel.
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``.

    Returns:
        (groups, n, n), n = c/groups H W, for maps flattened in the order (channel, row, column); differentiable.

    Example:
        >>> rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).view(2, 2, 1, 1)
        >>> dense_exponential(rotation, (1, 1))
        tensor([[[ 0.5403,  0.8415],
                 [-0.8415,  0.5403]]])
    """
    exponentials: Tensor = torch.linalg.matrix_exp(jacobian_matrices(weight, size, groups, padding_mode))
    return exponentials


def apply_dense(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply the maps of each group by its matrix.

    Args:
        x: maps (B, c, H, W).
        matrices: (groups, n, n) with n = c/groups H W, or n = c/groups for the same matrix at each pixel.

    Returns:
        Maps (B, c, H, W).
    """
    groups, length, _ = matrices.shape
    if length * groups == x.shape[1] and x.shape[-2:] != (1, 1):
        return F.conv2d(x, matrices.reshape(groups * length, length, 1, 1), groups=groups)
    grouped = x.reshape(x.shape[0], groups, length).transpose(0, 1)
    return (grouped @ matrices.mT).transpose(0, 1).reshape(x.shape)


def spectral_exponential(weight: Tensor, size: tuple[int, int], groups: int = 1) -> Tensor:
    """exp(J) with circular padding, at each frequency of maps of one size.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        size: H and W of the maps.
        groups: number of groups.

    Returns:
        Complex (H, W // 2 + 1, groups, c/groups, c/groups), unitary matrices; differentiable.

    Example:
        >>> rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).view(2, 2, 1, 1)
        >>> response = spectral_exponential(rotation, (4, 6))
        >>> response.shape
        torch.Size([4, 4, 1, 2, 2])
        >>> apply_spectral(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6), response)[0, :, 0, 0]
        tensor([ 0.5403, -0.8415])
    """
    exponentials: Tensor = torch.linalg.matrix_exp(frequency_response(weight, size, groups))
    return exponentials


def apply_spectral(x: Tensor, response: Tensor) -> Tensor:
    """Circular convolution given by its frequency response.

    Args:
        x: real maps (B, c, H, W).
        response: (H, W // 2 + 1, groups, c/groups, c/groups).

    Returns:
        Maps (B, c, H, W).
    """
    groups, channels = response.shape[2:4]
    spectrum = torch.unflatten(_spectrum(x).permute(2, 3, 1, 0), 2, (groups, channels))
    return _maps((response @ spectrum).flatten(2, 3).permute(3, 2, 0, 1), (x.shape[-2], x.shape[-1]))


def _spectrum(x: Tensor) -> Tensor:
    """``torch.fft.rfft2``; on small maps as one product with the matrix of the transform, which is faster."""
    size = (x.shape[-2], x.shape[-1])
    spectrum: Tensor
    if size[0] * size[1] > _PIXELS_OF_A_TRANSFORM_MATRIX:
        spectrum = torch.fft.rfft2(x)
    else:
        product = x.flatten(2) @ torch.view_as_real(_waves(size, x)).flatten(1)
        spectrum = torch.view_as_complex(torch.unflatten(product, 2, (size[0], size[1] // 2 + 1, 2)))
    return spectrum


def _maps(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `_spectrum`."""
    maps: Tensor
    pixels = size[0] * size[1]
    if pixels > _PIXELS_OF_A_TRANSFORM_MATRIX:
        maps = torch.fft.irfft2(spectrum, s=size)
        return maps
    waves = _waves(size, spectrum.real)
    # Frequencies of which the half spectrum leaves out the conjugate count twice.
    twice = torch.full((size[1] // 2 + 1,), 2.0, dtype=waves.real.dtype, device=waves.device)
    twice[0] = 1
    if size[1] % 2 == 0:
        twice[-1] = 1
    weights = torch.view_as_real(waves * (twice.repeat(size[0]) / pixels)).flatten(1)
    maps = torch.unflatten(torch.view_as_real(spectrum.flatten(2)).flatten(2) @ weights.T, 2, size)
    return maps


def _waves(size: tuple[int, int], like: Tensor) -> Tensor:
    """e^{-i w u} for every pixel u and frequency w of the half spectrum: (H W, H (W // 2 + 1))."""
    rows, columns = (torch.arange(length, device=like.device, dtype=torch.float64) / length for length in size)
    down = torch.outer(rows * size[0], rows)
    across = torch.outer(columns * size[1], columns[: size[1] // 2 + 1])
    turns = down[:, None, :, None] + across[None, :, None, :]
    return torch.exp(-2j * pi * turns.reshape(size[0] * size[1], -1)).to(
        torch.promote_types(like.dtype, torch.complex32)
    )


def contraction(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearly orthogonal or unitary matrices in a dtype, shrunk by their distance from it so that no norm exceeds 1.

    ||Q||^2 = ||Q^* Q|| <= c + ||Q^* Q - c I||_F for every c >= 0, evaluated in double precision for the rounded
    entries.

    Args:
        matrices: (..., n, n), in double precision.
        dtype: the dtype wanted, of the same kind.

    Returns:
        Matrices of norm at most 1, all shrunk by the same factor.

    Raises:
        ValueError: if they are not finite or farther from orthogonal than rounding explains.
    """
    result, shrunk = matrices.to(dtype), 1.0
    for attempt in range(4):
        norm, defect = _norm_bound(result.to(matrices.dtype))
        # Rounding moves a matrix of n columns of length 1 by at most sqrt(n) units.
        if attempt == 0 and not defect <= _LARGEST_DEFECT + 4 * sqrt(matrices.shape[-1]) * torch.finfo(dtype).eps:
            break
        if norm <= 1:
            return result
        shrunk /= norm * (1 + 2 * torch.finfo(dtype).eps)
        result = (matrices * shrunk).to(dtype)
    raise ValueError(
        f"matrices of shape {tuple(matrices.shape)} are not orthogonal: norms up to {norm}, and ||Q^* Q - I|| up to "
        f"{defect}"
    )


def _norm_bound(matrices: Tensor) -> tuple[float, float]:
    """The largest norm, including the rounding of this computation itself, and the largest ||Q^* Q - I||_F."""
    n = matrices.shape[-1]
    gram = matrices.mH @ matrices
    middle = gram.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1)
    identity = torch.eye(n, dtype=gram.dtype, device=gram.device)
    beside = torch.linalg.matrix_norm(gram - middle[..., None, None] * identity)
    # Each of the n^2 entries of the product is off by at most n units, and by a few in complex arithmetic.
    rounding = 8 * n * (n + 4) * torch.finfo(matrices.dtype).eps
    norm = sqrt(float((middle + beside).max()) + rounding) * (1 + torch.finfo(torch.float64).eps)
    return norm, float((beside + sqrt(n) * (middle - 1).abs()).max())
