"""GS-matrices of two factors, and the ranks of their blocks."""

from torch import Tensor

from lipnet.structured.gs.higher_order import HigherOrderGS
from lipnet.structured.gs.paths import inner_paths


class GSMatrix(HigherOrderGS):
    """A = P_L (L P R) P_R in the class GS(P_L, P, P_R): two block-diagonal factors between permutations.

    It is a `HigherOrderGS` with B_1 = R and B_2 = L. A permutation sigma sends entry i to place sigma(i); None is the
    identity.

    Args:
        left: blocks of L, (k_L, b_L^1, b_L^2).
        right: blocks of R, (k_R, b_R^1, b_R^2), with k_R b_R^1 = k_L b_L^2.
        permutation: P, int64 of that inner size.
        left_permutation: P_L, int64 of size k_L b_L^1.
        right_permutation: P_R, int64 of size k_R b_R^2.

    Raises:
        ValueError: as `HigherOrderGS`.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).

    Example:
        >>> import torch
        >>> from lipnet.functional import shuffle_permutation
        >>> left, right = torch.randn(2, 3, 2), torch.randn(2, 2, 4)
        >>> A = GSMatrix(left, right, shuffle_permutation(4, 2))
        >>> A
        GSMatrix(6 x 8: 2 of 2 x 4, 2 of 3 x 2)
        >>> A(torch.zeros(10, 8)).shape
        torch.Size([10, 6])
        >>> A.block_ranks()
        tensor([[1, 1],
                [1, 1]])
    """

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        permutation: Tensor | None,
        left_permutation: Tensor | None = None,
        right_permutation: Tensor | None = None,
    ) -> None:
        super().__init__([right, left], [right_permutation, permutation, left_permutation])

    @property
    def left(self) -> Tensor:
        """The blocks of L, (k_L, b_L^1, b_L^2)."""
        return self.blocks[1]

    @property
    def right(self) -> Tensor:
        """The blocks of R, (k_R, b_R^1, b_R^2)."""
        return self.blocks[0]

    def block_ranks(self) -> Tensor:
        """Return the ranks that P gives to the blocks of P_L^T A P_R^T = L P R, int64 of shape (k_L, k_R).

        Block (i, j) has the shape b_L^1 x b_R^2. It is the sum of (column sigma(t) of L) (row t of R) over the inner
        indices t that P sends from block j of R to block i of L: floor(t / b_R^1) = j and floor(sigma(t) / b_L^2) = i.
        Its rank is at most the number of these t and at most the smaller side of the block. For almost all L and R, it
        equals the smaller of the two numbers.

        Source: arXiv 2406.10019, Proposition 1. (The paper prints the numbers of blocks, k, in the two floors; its
        proof and its example need the sizes of the blocks.)
        """
        return inner_paths(self.left.shape, self.right.shape, self.permutations[1]).ranks
