"""Structured orthogonal matrices: products of block-diagonal rotations between permutations (OFT, BOFT, GSOFT)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipnet.functional import product_up
from lipnet.functional.autocast import without_autocast
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, exact, products
from lipnet.structured.blocks import Mixing, block_product, orthogonal_blocks_bound
from lipnet.structured.rotations import BLOCK_MAPS, from_upper_triangle, skew_symmetric, upper_triangle


class StructuredOrthogonal(nn.Module):
    r"""An orthogonal n x n matrix :math:`Q = \prod_{l=m..1} \Pi_l^T D_l \Pi_l` that is never formed.

    D_l is block-diagonal with n / b blocks of size b, each the Cayley transform or the exponential of a skew-symmetric
    K = A - A^T; Pi_l is the permutation that gathers the entries that a block mixes. The parameter ``generators`` holds
    the matrices A of all factors. It starts at zero, so Q starts at the identity, exactly. Q stays orthogonal to 10 n
    eps of its dtype, whatever steps an optimiser takes, up to ||K|| of 10^6.

    `oft`, `boft` and `gsoft` make the ones that have names.

    Args:
        features: n.
        block_size: b.
        mixings: for each factor which entries its blocks mix, the first being the factor that is applied first.
        block_map: ``"cayley"`` for (I + K)(I - K)^{-1}, or ``"exponential"`` for exp(K).

    Shape:
        (..., n, m) to the same shape: Q times a matrix, or a batch of them.

    Raises:
        ValueError: unless the blocks divide the features, for no factors, and for an unknown map.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019), of which OFT (arXiv 2306.07280) and
    BOFT (arXiv 2311.06243) are cases.

    Example:
        >>> q = StructuredOrthogonal(6, block_size=2, mixings=[Mixing(), Mixing(parts=2, distance=3)])
        >>> torch.equal(q.to_dense(), torch.eye(6))
        True
        >>> q.generators.shape
        torch.Size([2, 3, 2, 2])
    """

    def __init__(
        self,
        features: int,
        block_size: int,
        mixings: Sequence[Mixing] = (Mixing(),),
        block_map: str = "cayley",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_block_map(block_map)
        if not mixings:
            raise ValueError("an orthogonal matrix needs at least one factor, got no mixings")
        for mixing in mixings:
            mixing.check(features, block_size)
        self.features, self.block_size = features, block_size
        self.mixings, self.block_map = tuple(mixings), block_map
        shape = (len(mixings), features // block_size, block_size, block_size)
        self.generators = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[-2] != self.features:
            raise ValueError(f"the matrix needs an input of shape (..., {self.features}, m), got {tuple(x.shape)}")
        for blocks, mixing in zip(self.blocks(), self.mixings, strict=True):
            x = block_product(blocks, x, mixing)
        return x

    def rotate(self, vectors: Tensor, *, transposed: bool = False) -> Tensor:
        """Q v, or Q^T v, for vectors v along the last dimension: (..., n) to the same shape and dtype.

        Computed in the wider of the vectors' dtype and the matrix's, outside autocast.
        """
        if vectors.shape[-1:] != (self.features,):
            raise ValueError(f"the matrix needs vectors of shape (..., {self.features}), got {tuple(vectors.shape)}")
        with without_autocast(vectors.device):
            dtype = torch.promote_types(vectors.dtype, self.generators.dtype)
            columns = vectors.to(dtype).reshape(-1, self.features).mT
            if any(mixing.parts > 1 for mixing in self.mixings):
                # One transposition is faster than gathering entries that lie a whole vector apart.
                columns = columns.contiguous()
            factors = list(zip(self.blocks().to(dtype), self.mixings, strict=True))
            for blocks, mixing in reversed(factors) if transposed else factors:
                columns = block_product(blocks.mT if transposed else blocks, columns, mixing)
            return columns.mT.reshape(vectors.shape).to(vectors.dtype)

    def blocks(self) -> Tensor:
        """The orthogonal blocks of the factors, (m, n / b, b, b), in the order in which they are applied."""
        return BLOCK_MAPS[self.block_map](skew_symmetric(self.generators))

    def to_dense(self) -> Tensor:
        """Q as an (n, n) matrix, for looking at it."""
        dense: Tensor = self(torch.eye(self.features, dtype=self.generators.dtype, device=self.generators.device))
        return dense

    def lipschitz_bound(self) -> float:
        """An upper bound on ||Q||, with the blocks as they are after rounding; infinite if they are not finite.

        The product over the factors of their blocks' largest singular value, bounded in float64 and rounded up.
        """
        with torch.no_grad():
            return product_up(orthogonal_blocks_bound(blocks) for blocks in self.blocks())

    @torch.no_grad()
    def rounding_step(self, signal: Signal) -> Step:
        """The rounding of the products with the factors, whose blocks are constants as they are after rounding."""
        step = exact(signal)
        for blocks in self.blocks():
            factor = products(
                signal.after(step, signal.shape),
                length=self.block_size,
                magnitude=absolute_norm(blocks),
                gain=orthogonal_blocks_bound(blocks),
                outputs=signal.entries,
            )
            step = step.then(factor)
        return step

    def upper_triangles(self) -> Tensor:
        """All that Q depends on: the entries of every K above its diagonal, (m, n / b, b (b - 1) / 2), detached."""
        return upper_triangle(skew_symmetric(self.generators.detach()))

    @torch.no_grad()
    def set_upper_triangles(self, entries: Tensor) -> None:
        """Make Q the matrix whose `upper_triangles` these are, bit for bit.

        Raises:
            ValueError: for another shape.
        """
        expected = self.upper_triangles().shape
        if entries.shape != expected:
            raise ValueError(f"the upper triangles have shape {tuple(expected)}, got {tuple(entries.shape)}")
        self.generators.copy_(from_upper_triangle(entries, self.block_size))

    def extra_repr(self) -> str:
        mixings = ", ".join(f"{parts}/{distance}" for parts, distance in self.mixings)
        return f"{self.features}, block_size={self.block_size}, mixings=[{mixings}], block_map={self.block_map!r}"


def check_block_map(block_map: str) -> None:
    """Raise ValueError unless the map from skew-symmetric to orthogonal blocks is known."""
    if block_map not in BLOCK_MAPS:
        raise ValueError(f"block_map must be one of {', '.join(map(repr, BLOCK_MAPS))}, got {block_map!r}")


def oft(
    features: int,
    block_size: int,
    block_map: str = "cayley",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> StructuredOrthogonal:
    """OFT's Q: one block-diagonal factor, which mixes neighbours alone.

    Args:
        features, block_size, block_map: as in `StructuredOrthogonal`.

    Source: Qiu et al., "Controlling text-to-image diffusion by orthogonal finetuning", NeurIPS 2023 (arXiv 2306.07280).
    """
    return StructuredOrthogonal(features, block_size, [Mixing()], block_map, device=device, dtype=dtype)


def boft(
    features: int,
    block_size: int,
    factors: int,
    block_map: str = "cayley",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> StructuredOrthogonal:
    """BOFT's Q: m factors; with the features in runs of b / 2, level l = 0, ..., m - 1 pairs the runs at distance 2^l.

    Level 0 is block-diagonal. All entries of Q can be non-zero from m = 1 + log_2(n / b) on, if n / b is a power of 2.

    Args:
        features, block_size, block_map: as in `StructuredOrthogonal`.
        factors: m; beyond one the block size must be even and n divisible by b 2^(m-1).

    Source: Liu et al., "Parameter-efficient orthogonal finetuning via butterfly factorization", ICLR 2024 (arXiv
    2311.06243).
    """
    if factors < 1:
        raise ValueError(f"factors must be at least 1, got {factors}")
    mixings = [Mixing(), *(Mixing(parts=2, distance=2**level) for level in range(1, factors))]
    return StructuredOrthogonal(features, block_size, mixings, block_map, device=device, dtype=dtype)


def gsoft(
    features: int,
    block_size: int,
    block_map: str = "cayley",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> StructuredOrthogonal:
    """GSOFT's Q = P^T L P R with r = n / b blocks in L and in R, and the shuffle P = P_(r, br).

    R mixes b neighbours, L the entries r apart. All entries of Q can be non-zero from b >= r on.

    Args:
        features, block_size, block_map: as in `StructuredOrthogonal`.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).
    """
    shuffled = Mixing(parts=block_size, distance=max(1, features // max(1, block_size)))
    return StructuredOrthogonal(features, block_size, [Mixing(), shuffled], block_map, device=device, dtype=dtype)
