"""Group-and-shuffle (GS) matrices: block-diagonal factors with permutations between them, never formed densely."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from lipnet.structured.gs.permutations import check_permutation, inverse_permutation


class HigherOrderGS:
    """A = P_{m+1} (B_m P_m) ... (B_2 P_2) (B_1 P_1): block-diagonal factors B_i between permutations P_i.

    The matrix is a value around its tensors, not a module. Gradients flow through ``A(x)``, ``A @ x``, `to_dense` and
    ``A.T`` to the given blocks, which may be parameters of a module or computed tensors.

    Both sequences are in the order of application: ``blocks[0]`` is B_1, ``permutations[0]`` is P_1, and
    ``permutations[-1]`` is P_{m+1}. Both are read-only attributes of these names.

    Args:
        blocks: the blocks of each factor, floating of shape (k, rows, columns): B_i is block-diagonal with these k
            blocks, in order, and maps k * columns entries to k * rows. All have one dtype and device.
        permutations: m + 1 of them, int64 of the size of the vectors they act on; None is the identity. A permutation
            sigma sends entry i to place sigma(i): (P x)[sigma(i)] = x[i], see `lipnet.functional.shuffle_permutation`.

    Raises:
        ValueError: for blocks of another shape or dtype, for factors whose sizes do not match, if there are not m + 1
            permutations, and if one is no permutation of its size.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).

    Example:
        >>> from lipnet.functional import shuffle_permutation
        >>> shuffle = shuffle_permutation(8, 4)
        >>> A = HigherOrderGS([torch.ones(4, 2, 2)] * 3, [None, shuffle, shuffle, None])
        >>> A
        HigherOrderGS(8 x 8: 4 of 2 x 2, 4 of 2 x 2, 4 of 2 x 2)
        >>> A.num_parameters, A.flops
        (48, 96)
        >>> A(torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]))
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, blocks: Sequence[Tensor], permutations: Sequence[Tensor | None]) -> None:
        self.blocks = _checked_blocks(blocks)
        sizes = [_columns(factor) for factor in self.blocks] + [_rows(self.blocks[-1])]
        if len(permutations) != len(sizes):
            raise ValueError(
                f"{len(blocks)} factors need {len(sizes)} permutations, got {len(permutations)} (None is I)"
            )
        # Copies: the inverses below would not follow a later change of the given tensors.
        self.permutations = tuple(each if each is None else each.to(self.device, copy=True) for each in permutations)
        for number, (places, size) in enumerate(zip(self.permutations, sizes, strict=True)):
            if places is not None:
                check_permutation(places, size, f"permutations[{number}]")
        # A gather applies a permutation by its inverse: the source of the entry at each place.
        self._sources = tuple(each if each is None else inverse_permutation(each) for each in self.permutations)

    @property
    def shape(self) -> torch.Size:
        """(outputs, inputs), as for the dense matrix."""
        return torch.Size((_rows(self.blocks[-1]), _columns(self.blocks[0])))

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks[0].dtype

    @property
    def device(self) -> torch.device:
        return self.blocks[0].device

    @property
    def num_parameters(self) -> int:
        """Number of entries in all blocks."""
        return sum(factor.numel() for factor in self.blocks)

    @property
    def flops(self) -> int:
        """Floating-point operations for one vector: a multiplication and an addition for each entry of the blocks."""
        return 2 * self.num_parameters

    def __call__(self, x: Tensor) -> Tensor:
        """Apply A to vectors along the last dimension, as ``nn.Linear`` does: (..., inputs) to (..., outputs).

        Raises:
            ValueError: if the last dimension of x is not the number of inputs.
        """
        if x.dim() == 0 or x.shape[-1] != self.shape[1]:
            raise ValueError(f"A(x) needs x of shape (..., {self.shape[1]}), got {tuple(x.shape)}")
        for sources, factor in zip(self._sources, self.blocks, strict=False):
            groups = _permuted(x, sources).reshape(*x.shape[:-1], factor.shape[0], factor.shape[2])
            x = torch.einsum("...kj,kij->...ki", groups, factor).flatten(-2)
        return _permuted(x, self._sources[-1])

    def matmul(self, x: Tensor) -> Tensor:
        """Return ``A @ x`` as for the dense matrix: x is a vector (inputs,), or matrices (..., inputs, p) of columns.

        Raises:
            ValueError: for any other shape.
        """
        dimension = -1 if x.dim() == 1 else -2
        if x.dim() == 0 or x.shape[dimension] != self.shape[1]:
            raise ValueError(
                f"A @ x needs x of shape ({self.shape[1]},) or (..., {self.shape[1]}, p), got {tuple(x.shape)}; "
                "A(x) takes vectors along the last dimension"
            )
        return self(x) if x.dim() == 1 else self(x.mT).mT

    __matmul__ = matmul

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """Return ``x @ A`` as for the dense matrix: (..., outputs) to (..., inputs); errors as for A^T(x)."""
        return self.T(x)

    def to_dense(self) -> Tensor:
        """Return the dense matrix, (outputs, inputs)."""
        return self(torch.eye(self.shape[1], dtype=self.dtype, device=self.device)).mT

    def transpose(self) -> Self:
        """Return A^T = P_1^T B_1^T ... P_m^T B_m^T P_{m+1}^T, which shares memory and gradients with A."""
        transposed = copy.copy(self)
        transposed.blocks = tuple(factor.mT for factor in reversed(self.blocks))
        transposed.permutations, transposed._sources = self._sources[::-1], self.permutations[::-1]
        return transposed

    @property
    def T(self) -> Self:  # noqa: N802 - the name of torch's tensors
        """The `transpose`."""
        return self.transpose()

    def with_blocks(self, blocks: Sequence[Tensor]) -> Self:
        """Return the matrix with other blocks between the same permutations, on the device of these blocks.

        Raises:
            ValueError: unless each factor has blocks of the same shape as before.
        """
        shapes = [tuple(factor.shape) for factor in self.blocks]
        if [tuple(factor.shape) for factor in blocks] != shapes:
            raise ValueError(f"blocks must have shapes {shapes}, got {[tuple(factor.shape) for factor in blocks]}")
        changed = copy.copy(self)
        changed.blocks = _checked_blocks(blocks)
        changed.permutations, changed._sources = (
            tuple(each if each is None else each.to(changed.device) for each in indices)
            for indices in (self.permutations, self._sources)
        )
        return changed

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the matrix on another device or in another floating dtype; arguments as for ``Tensor.to``."""
        return self.with_blocks([factor.to(*args, **kwargs) for factor in self.blocks])

    def support(self) -> Tensor:
        """Return which entries of A are non-zero for some choice of the blocks, bool of shape (outputs, inputs).

        Example:
            >>> HigherOrderGS([torch.zeros(2, 1, 2)], [None, None]).support().int()
            tensor([[1, 1, 0, 0],
                    [0, 0, 1, 1]], dtype=torch.int32)
        """
        # With blocks of ones, an entry is the number of paths from its input to its output, and nothing cancels.
        ones = [torch.ones_like(factor, dtype=torch.float32, requires_grad=False) for factor in self.blocks]
        return self.with_blocks(ones).to_dense() > 0

    def __repr__(self) -> str:
        factors = ", ".join(f"{k} of {rows} x {columns}" for k, rows, columns in (f.shape for f in self.blocks))
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]}: {factors})"


def _rows(factor: Tensor) -> int:
    return factor.shape[0] * factor.shape[1]


def _columns(factor: Tensor) -> int:
    return factor.shape[0] * factor.shape[2]


def _permuted(x: Tensor, sources: Tensor | None) -> Tensor:
    return x if sources is None else x.index_select(-1, sources)


def _checked_blocks(blocks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the blocks as a tuple; raise ValueError unless they are the factors of a product."""
    if not blocks:
        raise ValueError("a GS-matrix needs at least one factor, got none")
    for number, factor in enumerate(blocks):
        if factor.dim() != 3 or factor.numel() == 0 or not factor.is_floating_point():
            raise ValueError(
                f"blocks[{number}] must be floating of shape (k, rows, columns), "
                f"got {factor.dtype}, {tuple(factor.shape)}"
            )
    kinds = {(factor.dtype, factor.device) for factor in blocks}
    if len(kinds) > 1:
        raise ValueError(f"blocks must have one dtype and device, got {sorted(map(str, kinds))}")
    for number, (inner, outer) in enumerate(pairwise(blocks)):
        if _rows(inner) != _columns(outer):
            raise ValueError(
                f"blocks[{number + 1}] takes {_columns(outer)} entries, but blocks[{number}] gives {_rows(inner)}: "
                f"got shapes {tuple(outer.shape)} and {tuple(inner.shape)}"
            )
    return tuple(blocks)
