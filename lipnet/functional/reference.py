"""The definition of the skew-orthogonal convolution (SOC), in plain torch.

Tests compare the faster implementations with these functions, values and gradients:
`lipnet.functional.skew_polynomial` and the engines of `lipnet.layers.engines`. Use them to read, to check, and as a
baseline.

Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021; groups as in Gorbunov et al., NeurIPS 2024
(arXiv 2406.10019).
"""

from collections.abc import Sequence
from math import factorial

import torch
import torch.nn.functional as F
from torch import Tensor


def skew_filter(weight: Tensor, groups: int = 1) -> Tensor:
    """Return (M - T(M)) / 2, (c, c/groups, kh, kw), with T(M)[o, i, a, b] = M[i, o, kh-1-a, kw-1-b] in every group."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return ((grouped - grouped.transpose(1, 2).flip(-2, -1)) / 2).flatten(0, 1)


def polynomial(
    x: Tensor, skew: Tensor, coefficients: Sequence[float], groups: int = 1, padding_mode: str = "zeros"
) -> Tensor:
    """Return sum_j c_j J^j x for maps x (B, c, H, W), where J is the 'same' convolution with the filter ``skew``."""
    rows, columns = skew.shape[-2] // 2, skew.shape[-1] // 2

    def image(maps: Tensor) -> Tensor:
        if padding_mode == "zeros":
            return F.conv2d(maps, skew, padding=(rows, columns), groups=groups)
        return F.conv2d(F.pad(maps, (columns, columns, rows, rows), padding_mode), skew, groups=groups)

    power, result = x, coefficients[0] * x
    for coefficient in coefficients[1:]:
        power = image(power)
        result = result + coefficient * power
    return result


def soc(
    x: Tensor,
    weight: Tensor,
    degree: int,
    groups: int = 1,
    padding_mode: str = "zeros",
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Return exp(J) x up to a degree: sum_{j <= degree} J^j x / j! with the filter L = scale (M - T(M)) / 2.

    Args:
        x: feature maps (B, c, H, W).
        weight: M, the free filter (c, c/groups, kh, kw) with odd kh and kw.
        degree: of the Taylor polynomial; 23 is exact to float64 for ||J|| <= 2.1.
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``.
        scale: one for all groups, or of shape (groups,).

    Example:
        >>> x, weight = torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.randn(2, 2, 3, 3, dtype=torch.float64) / 4
        >>> torch.allclose(soc(x, weight, 30).norm(), x.norm())
        True
    """
    skew = skew_filter(weight, groups).reshape(groups, -1, *weight.shape[1:])
    scales = torch.as_tensor(scale, dtype=weight.dtype, device=weight.device)
    scaled = (scales.view(-1, 1, 1, 1, 1) * skew).flatten(0, 1)
    return polynomial(x, scaled, [1 / factorial(j) for j in range(degree + 1)], groups, padding_mode)
