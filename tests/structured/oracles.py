"""Dense structured matrices from their definitions, in NumPy and SciPy alone; permutations are lists of places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from tests.oracles import Matrix, permutation_matrix, to_numpy

Places = list[int] | None


def block_diagonal(blocks: Tensor) -> Matrix:
    """The block-diagonal matrix of blocks (k, rows, columns)."""
    return np.asarray(scipy.linalg.block_diag(*to_numpy(blocks)), dtype=np.float64)


def gs_dense(blocks: Sequence[Tensor], permutations: Sequence[Tensor | None]) -> Matrix:
    """P_{m+1} B_m P_m ... B_1 P_1 by dense products; both sequences in the order in which they act."""
    matrix = np.eye(blocks[0].shape[0] * blocks[0].shape[2])
    for factor, places in zip([*map(block_diagonal, blocks), None], permutations, strict=True):
        if places is not None:
            matrix = permutation_matrix(places.tolist()) @ matrix
        if factor is not None:
            matrix = factor @ matrix
    return matrix


def random_blocks(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_places(size: int, seed: int = 0) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def random_orthogonal(*shape: int, seed: int = 0) -> Tensor:
    """Blocks (k, b, b) that are orthogonal, in float64."""
    orthogonal: Tensor = torch.linalg.qr(random_blocks(*shape, seed=seed)).Q
    return orthogonal
