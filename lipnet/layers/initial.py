"""Initial filters and biases that several layers share."""

from math import prod, sqrt

import torch
from torch import Tensor, nn


def reset_identity(weight: Tensor, groups: int) -> None:
    """Set each group of a filter (c, n, kh, kw) to the identity: a diagonal of ones in the middle tap, else zeros."""
    nn.init.zeros_(weight)
    rows, columns = weight.shape[-2] // 2, weight.shape[-1] // 2
    with torch.no_grad():
        grouped = weight.view(groups, -1, *weight.shape[1:])
        grouped[..., rows, columns].diagonal(dim1=1, dim2=2).fill_(1)


def reset_uniform(weight: Tensor) -> None:
    """Draw a filter uniformly from +-1 / sqrt(fan in), as ``nn.Conv2d`` does."""
    bound = 1 / sqrt(prod(weight.shape[1:]))
    nn.init.uniform_(weight, -bound, bound)


def reset_orthogonal(weight: Tensor) -> None:
    """Draw a matrix with orthonormal rows or columns, as ``nn.init.orthogonal_`` does, in any floating dtype."""
    with torch.no_grad():
        # torch has no QR decomposition in half precision.
        precise = torch.empty_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        weight.copy_(nn.init.orthogonal_(precise))


def reset_bias(bias: Tensor | None) -> None:
    """Draw the biases of n output channels uniformly from +-1 / sqrt(n)."""
    if bias is not None:
        bound = 1 / sqrt(len(bias))
        nn.init.uniform_(bias, -bound, bound)
