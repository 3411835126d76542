"""GS-matrices with the permutations of the literature: Monarch, products of shuffles, butterflies."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from lipnet.functional import shuffle_permutation
from lipnet.structured.gs.higher_order import HigherOrderGS
from lipnet.structured.gs.matrix import GSMatrix
from lipnet.structured.gs.permutations import butterfly_permutation, inverse_permutation


def monarch(left: Tensor, right: Tensor) -> GSMatrix:
    """Return the Monarch matrix P_L L P R, in which every block of L receives one entry from every block of R.

    Args:
        left: blocks of L, (k_L, b_L^1, k_R).
        right: blocks of R, (k_R, k_L, b_R^2).

    Returns:
        The GS-matrix with P = P_(k_L, k_L k_R) and P_L = P_(b_L^1, k_L b_L^1). Both permutations are transpositions: P
        of the rows of R as a k_R x k_L matrix, P_L of the outputs as a k_L x b_L^1 matrix. All blocks have rank 1.

    Raises:
        ValueError: unless b_R^1 = k_L and b_L^2 = k_R, and as `GSMatrix`.

    Source: Dao et al., "Monarch", ICML 2022 (arXiv 2204.00595); as GS-matrices: arXiv 2406.10019.

    Example:
        >>> import torch
        >>> monarch(torch.ones(3, 3, 3), torch.ones(3, 3, 3)).block_ranks()
        tensor([[1, 1, 1],
                [1, 1, 1],
                [1, 1, 1]])
    """
    if left.dim() != 3 or right.dim() != 3 or left.shape[0] != right.shape[1] or left.shape[2] != right.shape[0]:
        raise ValueError(
            "a Monarch matrix needs L of shape (k_L, b, k_R) and R of shape (k_R, k_L, c), "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    left_count, left_rows, right_count = left.shape
    inner = shuffle_permutation(left_count * right_count, left_count)
    outer = shuffle_permutation(left_count * left_rows, left_rows)
    return GSMatrix(left, right, inner, outer)


def group_and_shuffle(factors: Sequence[Tensor]) -> HigherOrderGS:
    """Return B_m P B_{m-1} P ... P B_1 with the shuffle P = P_(r, br), as in the theorem on dense products.

    Args:
        factors: blocks of B_1, ..., B_m, each (r, b, b). B_1 acts first.

    Raises:
        ValueError: unless all factors have one shape (r, b, b).

    Source: arXiv 2406.10019, Theorem 2. `lipnet.structured.is_dense` tells when all entries can be non-zero.

    Example:
        >>> import torch
        >>> group_and_shuffle([torch.ones(4, 4, 4)] * 2).to_dense().unique()
        tensor([1.])
    """
    blocks, block_size = _common_shape(factors)
    shuffle = shuffle_permutation(blocks * block_size, blocks)
    return HigherOrderGS(factors, [None, *[shuffle] * (len(factors) - 1), None])


def butterfly(factors: Sequence[Tensor]) -> HigherOrderGS:
    """Return (Q_{m-1}^T B_m Q_{m-1}) ... (Q_1^T B_2 Q_1) (Q_0^T B_1 Q_0), Q_l = `butterfly_permutation` of level l.

    Factor Q_l^T B_{l+1} Q_l mixes half-blocks, of b / 2 entries, that are 2^l half-blocks apart.

    Args:
        factors: blocks of B_1, ..., B_m, each (r, b, b). B_1 acts first.

    Raises:
        ValueError: unless all factors have one shape (r, b, b), with r a power of two, b even and m <= 1 + log_2 r.

    Source: BOFT, arXiv 2311.06243; as GS-matrices: arXiv 2406.10019.

    Example:
        >>> import torch
        >>> butterfly([torch.ones(2, 2, 2)]).to_dense()
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.],
                [0., 0., 1., 1.],
                [0., 0., 1., 1.]])
        >>> butterfly([torch.ones(2, 2, 2)] * 2).to_dense().unique()
        tensor([1.])
    """
    blocks, block_size = _common_shape(factors)
    levels = [butterfly_permutation(blocks, block_size, level) for level in range(len(factors))]
    steps: list[Tensor | None] = [levels[0]]
    # Undo one level and apply the next: entry i goes to Q_l(Q_{l-1}^{-1}(i)).
    for last, following in pairwise(levels):
        steps.append(following[inverse_permutation(last)])
    return HigherOrderGS(factors, [*steps, inverse_permutation(levels[-1])])


def _common_shape(factors: Sequence[Tensor]) -> tuple[int, int]:
    """Return r and b; raise ValueError unless all factors are (r, b, b)."""
    shapes = {tuple(factor.shape) for factor in factors}
    if len(shapes) != 1:
        raise ValueError(f"factors must be at least one and have one shape (r, b, b), got {sorted(shapes)}")
    (shape,) = shapes
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"factors must have square blocks, of shape (r, b, b), got {shape}")
    return shape[0], shape[1]
