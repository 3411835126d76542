"""Projection of a dense matrix to the nearest GS-matrix, and orthogonal factors of an orthogonal GS-matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lipnet.structured.gs.matrix import GSMatrix
from lipnet.structured.gs.paths import InnerPaths, inner_paths
from lipnet.structured.gs.permutations import check_permutation, inverse_permutation


def project_gs(
    matrix: Tensor,
    left: Sequence[int],
    right: Sequence[int],
    permutation: Tensor | None,
    left_permutation: Tensor | None = None,
    right_permutation: Tensor | None = None,
) -> GSMatrix:
    """Return the matrix of GS(P_L, P, P_R) nearest to A in the Frobenius norm.

    P_L^T A P_R^T falls into k_L x k_R blocks. P gives each block a rank (`GSMatrix.block_ranks`), and nothing else
    limits it. So the nearest member has the truncated singular value decomposition U S V^T of each block: columns of
    U sqrt(S) in L, rows of sqrt(S) V^T in R. The squared distance is the sum of the squared singular values left out.
    If the last singular value kept equals the first left out, other members are equally near. The computation is in
    float64 and without gradients.

    Args:
        matrix: A, floating of shape (k_L b_L^1, k_R b_R^2).
        left: shape of the blocks of L, (k_L, b_L^1, b_L^2).
        right: shape of the blocks of R, (k_R, b_R^1, b_R^2), with k_R b_R^1 = k_L b_L^2.
        permutation, left_permutation, right_permutation: P, P_L and P_R as in `GSMatrix`; None is the identity.

    Returns:
        The nearest member, with the device and dtype of the matrix.

    Raises:
        ValueError: for a matrix that is not finite, not floating or of another shape, and for shapes and permutations
            that make no GS-matrix.

    Source: arXiv 2406.10019, Algorithm 1. (Its U[:r, :] means the first r columns.)

    Example:
        >>> from lipnet.functional import shuffle_permutation
        >>> A = torch.arange(16.0).view(4, 4)
        >>> nearest = project_gs(A, left=(2, 2, 2), right=(2, 2, 2), permutation=shuffle_permutation(4, 2))
        >>> round(float((nearest.to_dense() - A).norm()), 4)
        0.7797
    """
    paths = inner_paths(left, right, permutation)
    blocks = _blocks_of(matrix, left, right, left_permutation, right_permutation)
    u, s, vh = torch.linalg.svd(blocks, full_matrices=False)
    root = s.sqrt()
    columns, rows = u * root.unsqueeze(-2), root.unsqueeze(-1) * vh
    left_blocks, right_blocks = (factor.to(matrix.dtype) for factor in _factors(columns, rows, left, right, paths))
    return GSMatrix(left_blocks, right_blocks, permutation, left_permutation, right_permutation)


def orthogonal_factors(
    matrix: Tensor,
    left: Sequence[int],
    right: Sequence[int],
    permutation: Tensor | None,
    left_permutation: Tensor | None = None,
    right_permutation: Tensor | None = None,
    *,
    tolerance: float | None = None,
) -> GSMatrix:
    """Return an orthogonal matrix of GS(P_L, P, P_R) as a product of L and R with orthogonal blocks.

    Such blocks exist. A^T A = I gives L^T L = P (R R^T)^{-1} P^T. This matrix, carried back by P, is block-diagonal
    both for the rows of R's blocks and for the columns of L's, and so is its square root M. Then L P M^{-1} P^T and
    M R are orthogonal, have the same blocks, and give the same product. It follows that each block (i, j) of
    P_L^T A P_R^T has as many singular values 1 as its rank, and otherwise 0. Its left singular vectors make the blocks
    of L, its right ones those of R; a change of basis within them cancels in the product.

    The blocks must be square. With more inner indices than rows the theorem is false: the rotation by 45 degrees is a
    member for two blocks 1 x 2, two blocks 2 x 1 and P = P_(2, 4), but no such L and R have unit rows and columns.

    Args:
        matrix: A, floating of shape (n, n).
        left: shape of the blocks of L, (k_L, b_L, b_L) with k_L b_L = n.
        right: shape of the blocks of R, (k_R, b_R, b_R) with k_R b_R = n.
        permutation, left_permutation, right_permutation: P, P_L and P_R as in `GSMatrix`; None is the identity.
        tolerance: largest distance of A^T A from I, and of A from the class, in the Frobenius norm; above 0 and below
            1/2. The default is 10 n eps of the dtype.

    Returns:
        The member, with blocks orthogonal to the rounding of A's dtype even if A itself deviates more. Computed in
        float64 and without gradients.

    Raises:
        ValueError: if A is not orthogonal or not a member (states the deviation), if the blocks are not square, if the
            tolerance is not below 1/2 (the default is not for large n in low precision), and as `project_gs`.

    Source: arXiv 2406.10019, Theorem 1.

    Example:
        >>> from lipnet.functional import shuffle_permutation
        >>> hadamard = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
        >>> A = orthogonal_factors(hadamard, (2, 2, 2), (2, 2, 2), shuffle_permutation(4, 2))
        >>> bool((A.left @ A.left.mT - torch.eye(2)).abs().max() < 1e-6)
        True
        >>> bool((A.to_dense() - hadamard).abs().max() < 1e-6)
        True
    """
    paths = inner_paths(left, right, permutation)
    if left[1] != left[2] or right[1] != right[2]:
        raise ValueError(f"orthogonal factors need square blocks, got left {tuple(left)}, right {tuple(right)}")
    blocks = _blocks_of(matrix, left, right, left_permutation, right_permutation)
    allowed = _check_orthogonal(matrix, tolerance)
    u, s, vh = torch.linalg.svd(blocks, full_matrices=False)
    left_out = torch.arange(s.shape[-1], device=s.device) >= paths.ranks.to(s.device).unsqueeze(-1)
    distance = float(s[left_out].norm())
    if not distance <= allowed:
        raise ValueError(
            f"the matrix is not of this class: its Frobenius distance to it is {distance:.3g}, more than {allowed:.3g}"
        )
    # The blocks inherit A's deviation from orthogonality; the polar factor removes it.
    decompositions = map(torch.linalg.svd, _factors(u, vh, left, right, paths))
    left_blocks, right_blocks = ((u @ vh).to(matrix.dtype) for u, _, vh in decompositions)
    return GSMatrix(left_blocks, right_blocks, permutation, left_permutation, right_permutation)


def _blocks_of(
    matrix: Tensor,
    left: Sequence[int],
    right: Sequence[int],
    left_permutation: Tensor | None,
    right_permutation: Tensor | None,
) -> Tensor:
    """Return the blocks of P_L^T A P_R^T, float64 of shape (k_L, k_R, b_L^1, b_R^2)."""
    shape = (left[0] * left[1], right[0] * right[2])
    if matrix.shape != shape or not matrix.is_floating_point():
        raise ValueError(
            f"left {tuple(left)} and right {tuple(right)} need a floating matrix of shape {shape}, "
            f"got {matrix.dtype}, {tuple(matrix.shape)}"
        )
    if not bool(matrix.isfinite().all()):
        raise ValueError("matrix must be finite, got NaN or infinity")
    inner = matrix.detach().double()
    if left_permutation is not None:
        check_permutation(left_permutation, shape[0], "left_permutation")
        inner = inner[left_permutation.to(matrix.device)]
    if right_permutation is not None:
        check_permutation(right_permutation, shape[1], "right_permutation")
        inner = inner[:, inverse_permutation(right_permutation).to(matrix.device)]
    return inner.view(left[0], left[1], right[0], right[2]).transpose(1, 2)


def _factors(
    columns: Tensor, rows: Tensor, left: Sequence[int], right: Sequence[int], paths: InnerPaths
) -> tuple[Tensor, Tensor]:
    """Return L and R whose product has the blocks sum_q columns[i, j, :, q] rows[i, j, q, :], with q below the rank."""
    # A pair of blocks may have more paths than its block has singular values; the rest stay zero.
    used = paths.number < min(left[1], right[2])
    left_block, left_column, right_block, right_row, number = (index[used].to(columns.device) for index in paths[:5])
    left_factor, right_factor = columns.new_zeros(tuple(left)), rows.new_zeros(tuple(right))
    left_factor[left_block, :, left_column] = columns[left_block, right_block, :, number]
    right_factor[right_block, right_row] = rows[left_block, right_block, number]
    return left_factor, right_factor


def _check_orthogonal(matrix: Tensor, tolerance: float | None) -> float:
    """Return the allowed deviation; raise ValueError if it is out of range or A^T A is further from I."""
    allowed = 10 * len(matrix) * torch.finfo(matrix.dtype).eps if tolerance is None else tolerance
    # Closer to 1/2, rounding could not tell the singular values 1 from the zeros.
    if not 0 < allowed < 0.5:
        origin = f" (10 n eps of {matrix.dtype})" if tolerance is None else ""
        raise ValueError(f"tolerance must be above 0 and below 1/2, got {allowed:.3g}{origin}")
    exact = matrix.detach().double()
    gram = exact.mT @ exact
    deviation = float(torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)))
    if not deviation <= allowed:
        raise ValueError(f"the matrix is not orthogonal: ||A^T A - I||_F is {deviation:.3g}, more than {allowed:.3g}")
    return allowed
