"""Skew-symmetric convolution filters: the Lie algebra behind skew-orthogonal convolutions."""

from torch import Tensor


def transpose_filter(weight: Tensor, groups: int = 1) -> Tensor:
    """The filter T(M) whose 'same' convolution is the adjoint of M's.

    T(M)[o, i, a, b] = M[i, o, kh-1-a, kw-1-b], in every group on its own.

    Args:
        weight: filter (c, c/groups, kh, kw) in the layout of ``nn.Conv2d``, with odd kh and kw.
        groups: number of groups of the convolution.

    Returns:
        A filter of the same shape.

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021.
    """
    grouped: Tensor = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flip(-2, -1).flatten(0, 1)


def skew_filter(weight: Tensor, groups: int = 1) -> Tensor:
    """L = (M - T(M)) / 2, whose 'same' convolution has a skew-symmetric Jacobian.

    The Jacobian J satisfies J^T = -J exactly for zero and for circular padding with stride 1 and dilation 1, so that
    exp(J) is orthogonal.

    Args:
        weight: any filter (c, c/groups, kh, kw) with odd kh and kw.
        groups: number of groups of the convolution.

    Returns:
        The skew part of ``weight``, of the same shape.
    """
    return (weight - transpose_filter(weight, groups)) / 2
