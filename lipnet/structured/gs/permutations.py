"""Permutations as index tensors: entry i goes to place sigma(i), as in `lipnet.functional.shuffle_permutation`.

The matrix P of sigma has a 1 at (sigma(i), i), so that (P x)[sigma(i)] = x[i].
"""

import torch
from torch import Tensor

from lipnet.functional import shuffle_permutation


def check_permutation(places: Tensor, size: int, name: str = "permutation") -> None:
    """Raise ValueError unless ``places`` holds every number from 0 to size - 1 once, as int64 of shape (size,)."""
    if places.dtype != torch.int64 or places.shape != (size,):
        raise ValueError(f"{name} must be int64 of shape ({size},), got {places.dtype}, {tuple(places.shape)}")
    if not torch.equal(places.sort().values, torch.arange(size, device=places.device)):
        raise ValueError(f"{name} must hold every number from 0 to {size - 1} once, got {places.tolist()}")


def inverse_permutation(places: Tensor) -> Tensor:
    """Return the permutation that sends entry sigma(i) back to place i; its matrix is P^T.

    Example:
        >>> inverse_permutation(torch.tensor([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    inverse = torch.empty_like(places)
    inverse[places] = torch.arange(len(places), device=places.device)
    return inverse


def butterfly_permutation(blocks: int, block_size: int, level: int) -> Tensor:
    """Return Q_level of a butterfly with r blocks of size b, which brings half-blocks at distance 2^level together.

    The n = r b entries are 2r half-blocks of b / 2 entries. A half-block and its partner have numbers that differ in
    the binary digit ``level`` alone, so they lie at distance 2^level. Q sends both to the halves of one block, the
    half-block with digit 0 first; the pairs keep their order. In each run of 2^(level+1) half-blocks this is the
    shuffle P_(2^level, 2^(level+1)), so that Q = I (x) P_(2^level, 2^(level+1)) (x) I_(b/2). Level 0 is the identity.

    Args:
        blocks: r, a power of two.
        block_size: b, even.
        level: from 0 to log_2 r.

    Returns:
        sigma, int64 of shape (n,): entry i goes to place sigma(i).

    Raises:
        ValueError: unless r is a power of two, b even and 2^level at most r.

    Source: Liu et al., "Parameter-efficient orthogonal finetuning via butterfly factorization", ICLR 2024
    (arXiv 2311.06243), after the butterflies of the fast Fourier transform.

    Example:
        >>> butterfly_permutation(blocks=2, block_size=4, level=1).tolist()
        [0, 1, 4, 5, 2, 3, 6, 7]
    """
    if blocks < 1 or blocks & (blocks - 1):
        raise ValueError(f"blocks must be a power of two for a butterfly, got {blocks}")
    if block_size < 2 or block_size % 2:
        raise ValueError(f"block_size must be even, as a butterfly pairs half-blocks, got {block_size}")
    if not 0 <= level < blocks.bit_length():
        raise ValueError(f"level must be from 0 to {blocks.bit_length() - 1} for {blocks} blocks, got {level}")
    distance, half = 2**level, block_size // 2
    run = shuffle_permutation(2 * distance, distance)
    starts = torch.arange(0, 2 * blocks, 2 * distance)
    half_blocks = (starts[:, None] + run).flatten()
    return (half_blocks[:, None] * half + torch.arange(half)).flatten()
