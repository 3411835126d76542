"""Number of block-diagonal factors whose product can be dense, and numbers of parameters."""


def factors_needed(block_size: int, blocks: int, *, butterfly: bool = False) -> int:
    """Return the least number of factors, each with r blocks of size b, whose product can be without zeros.

    With the shuffles P_(r, br) between the factors, as in `lipnet.structured.group_and_shuffle`, it is
    1 + ceil(log_b r): the second factor reaches b blocks from one, and every further factor b times as many. No other
    permutations need fewer factors.

    With butterflies, as in `lipnet.structured.butterfly`, it is 1 + ceil(log_2 r): every factor after the first pairs
    halves of blocks, and so doubles the number of blocks reached, whatever b is.

    Args:
        block_size: b; at least 2 if there is more than one block, and even for butterflies.
        blocks: r.
        butterfly: count the factors of butterflies. They exist if r is a power of two. For any other r, return the
            least number over all ways of pairing half-blocks.

    Raises:
        ValueError: for numbers below 1, several blocks of size 1 (they never mix), or a butterfly of odd block size.

    Source: arXiv 2406.10019, Theorem 2.

    Example:
        >>> factors_needed(block_size=32, blocks=32), factors_needed(block_size=32, blocks=32, butterfly=True)
        (2, 6)
    """
    _check_sizes(block_size, blocks)
    if butterfly and block_size % 2:
        raise ValueError(f"block_size must be even, as a butterfly pairs half-blocks, got {block_size}")
    if block_size == 1 and blocks > 1:
        raise ValueError(f"{blocks} blocks of size 1 never mix: no number of factors makes their product dense")
    growth = 2 if butterfly else block_size
    factors, reached = 1, 1
    while reached < blocks:
        factors, reached = factors + 1, reached * growth
    return factors


def is_dense(factors: int, block_size: int, blocks: int, *, butterfly: bool = False) -> bool:
    """Return whether the product of ``factors`` factors, each with r blocks of size b, can be without zeros.

    Args:
        factors: number of factors, at least 1.
        block_size, blocks, butterfly: as for `factors_needed`, but several blocks of size 1 give False.

    Raises:
        ValueError: for numbers below 1, or a butterfly of odd block size.

    Example:
        >>> [is_dense(factors, block_size=4, blocks=16) for factors in (1, 2, 3)]
        [False, False, True]
    """
    if factors < 1:
        raise ValueError(f"factors must be at least 1, got {factors}")
    _check_sizes(block_size, blocks)
    if block_size == 1 and not butterfly:
        return blocks == 1
    return factors >= factors_needed(block_size, blocks, butterfly=butterfly)


def parameter_counts(size: int, block_size: int) -> dict[str, int]:
    """Return the number of parameters of an n x n matrix for each structure, with square blocks of size b.

    Args:
        size: n.
        block_size: b, which must divide n.

    Returns:
        ``dense``: n^2. ``block-diagonal``: n b, one factor, which mixes nothing between blocks. ``GS`` and
        ``butterfly``: n b for each of the `factors_needed` for a dense product.

    Raises:
        ValueError: if the block size does not divide the size, and as `factors_needed`.

    Example:
        >>> parameter_counts(size=1024, block_size=32)
        {'dense': 1048576, 'butterfly': 196608, 'GS': 65536, 'block-diagonal': 32768}
    """
    if block_size < 1 or size < 1 or size % block_size:
        raise ValueError(f"block_size must divide size, got size {size} and block_size {block_size}")
    factor, blocks = size * block_size, size // block_size
    return {
        "dense": size * size,
        "butterfly": factors_needed(block_size, blocks, butterfly=True) * factor,
        "GS": factors_needed(block_size, blocks) * factor,
        "block-diagonal": factor,
    }


def _check_sizes(block_size: int, blocks: int) -> None:
    if block_size < 1 or blocks < 1:
        raise ValueError(f"block_size and blocks must be at least 1, got {block_size} and {blocks}")
