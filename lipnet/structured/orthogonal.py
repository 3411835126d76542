"""Structured orthogonal matrices: products of block-diagonal rotations between permutations (OFT, BOFT, GSOFT)."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from lipnet.functional import product_up
from lipnet.functional.autocast import without_autocast
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, exact, products
from lipnet.layers.arguments import check_weight
from lipnet.layers.originals import WatchedModule
from lipnet.structured.blocks import Mixing, ShufflePower, block_product, orthogonal_blocks_bound
from lipnet.structured.rotations import BLOCK_MAPS, from_upper_triangle, skew_symmetric, upper_triangle

_MOST_FACTORS = 64


class TensorOptions(TypedDict, total=False):
    """The device and dtype of new parameters, as the keyword arguments of torch's modules."""

    device: torch.device | str | None
    dtype: torch.dtype | None


class StructuredOrthogonal(WatchedModule):
    r"""An orthogonal n x n matrix :math:`Q = \prod_{l=m..1} \Pi_l^T D_l \Pi_l` that is never formed.

    D_l is block-diagonal with n / b blocks of size b, each the Cayley transform or the exponential of a skew-symmetric
    K = A - A^T. The permutation Pi_l gathers the entries that a block mixes. The parameter ``generators`` holds the
    matrices A of all factors, (m, n / b, b, b). They start at zero, so that Q is exactly the identity. Whatever steps
    an optimiser takes, Q stays orthogonal to 10 n eps of its dtype, up to ||K|| = 10^6.

    `oft`, `boft` and `gsoft` build the matrices of the literature.

    Args:
        features: n.
        block_size: b.
        mixings: Pi_1, ..., Pi_m; the first factor is applied first.
        block_map: ``"cayley"`` for (I + K)(I - K)^{-1}, or ``"exponential"`` for exp(K).
        options: ``device`` and ``dtype`` of the generators.

    Shape:
        (..., n, p) to the same shape: Q times a matrix, or a batch of matrices.

    Raises:
        ValueError: if the blocks do not divide the features, there is no factor, or the block map is unknown.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019). OFT (arXiv 2306.07280) and BOFT
    (arXiv 2311.06243) are special cases.

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
        mixings: Sequence[Mixing | ShufflePower] = (Mixing(),),
        block_map: str = "cayley",
        **options: Unpack[TensorOptions],
    ) -> None:
        super().__init__()
        check_block_map(block_map)
        if not mixings:
            raise ValueError("an orthogonal matrix needs at least one factor, got no mixings")
        for mixing in mixings:
            mixing.check(features, block_size)
        self.features, self.block_size = features, block_size
        self.mixings, self.block_map = tuple(mixings), block_map
        self.generators = nn.Parameter(torch.zeros(self._generators_shape, **options))

    @property
    def _generators_shape(self) -> tuple[int, int, int, int]:
        return len(self.mixings), self.features // self.block_size, self.block_size, self.block_size

    def check(self) -> None:
        """Raise ValueError for settings that contradict each other or the generators; all products call it."""
        check_block_map(self.block_map)
        for mixing in self.mixings:
            if type(mixing) not in (Mixing, ShufflePower):
                raise ValueError(f"mixings must be of the class Mixing or ShufflePower, got {type(mixing).__name__}")
            mixing.check(self.features, self.block_size)
        check_weight("generators", self.generators, self._generators_shape)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[-2] != self.features:
            raise ValueError(f"the matrix needs an input of shape (..., {self.features}, p), got {tuple(x.shape)}")
        for blocks, mixing in zip(self.blocks(), self.mixings, strict=True):
            x = block_product(blocks, x, mixing)
        return x

    def rotate(self, vectors: Tensor, *, transposed: bool = False) -> Tensor:
        """Return Q v, or Q^T v, for vectors v along the last dimension: (..., n) to the same shape and dtype.

        The product is computed in the wider of the two dtypes, outside autocast.
        """
        if vectors.shape[-1:] != (self.features,):
            raise ValueError(f"the matrix needs vectors of shape (..., {self.features}), got {tuple(vectors.shape)}")
        with without_autocast(vectors.device):
            dtype = torch.promote_types(vectors.dtype, self.generators.dtype)
            columns = vectors.to(dtype).reshape(-1, self.features).mT
            if len(self.mixings) > 1:
                # One transposition is faster than gathering entries that lie a whole vector apart.
                columns = columns.contiguous()
            factors = list(zip(self.blocks().to(dtype), self.mixings, strict=True))
            for blocks, mixing in reversed(factors) if transposed else factors:
                columns = block_product(blocks.mT if transposed else blocks, columns, mixing)
            return columns.mT.reshape(vectors.shape).to(vectors.dtype)

    def blocks(self) -> Tensor:
        """Return the orthogonal blocks of all factors, (m, n / b, b, b), in the order in which they are applied."""
        self.check()
        return BLOCK_MAPS[self.block_map](skew_symmetric(self.generators))

    def to_dense(self) -> Tensor:
        """Return Q as a dense (n, n) matrix."""
        dense: Tensor = self(torch.eye(self.features, dtype=self.generators.dtype, device=self.generators.device))
        return dense

    def lipschitz_bound(self) -> float:
        """Bound ||Q|| by the product of bounds on the rounded factors' largest singular values, rounded up.

        Non-finite blocks give infinity.

        Raises:
            ValueError: as `check`.
        """
        with torch.no_grad():
            return product_up(orthogonal_blocks_bound(blocks) for blocks in self.blocks())

    @torch.no_grad()
    def rounding_step(self, signal: Signal) -> Step:
        """Bound the rounding error of the products with the factors; the rounded blocks are taken as exact."""
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
        """Return the entries above the diagonal of every K, (m, n / b, b (b - 1) / 2), detached. They determine Q."""
        return upper_triangle(skew_symmetric(self.generators.detach()))

    @torch.no_grad()
    def set_upper_triangles(self, entries: Tensor) -> None:
        """Restore the Q with these `upper_triangles`, bit for bit.

        Raises:
            ValueError: for another shape.
        """
        expected = self.upper_triangles().shape
        if entries.shape != expected:
            raise ValueError(f"the upper triangles must have shape {tuple(expected)}, got {tuple(entries.shape)}")
        self.generators.copy_(from_upper_triangle(entries, self.block_size))

    def extra_repr(self) -> str:
        mixings = ", ".join(map(str, self.mixings))
        return f"{self.features}, block_size={self.block_size}, mixings=[{mixings}], block_map={self.block_map!r}"


def check_block_map(block_map: str) -> None:
    """Raise ValueError for an unknown map from skew-symmetric to orthogonal blocks."""
    if block_map not in BLOCK_MAPS:
        raise ValueError(f"block_map must be one of {', '.join(map(repr, BLOCK_MAPS))}, got {block_map!r}")


def oft(
    features: int, block_size: int, block_map: str = "cayley", **options: Unpack[TensorOptions]
) -> StructuredOrthogonal:
    """Build the Q of OFT: one block-diagonal factor, which mixes neighbours only.

    Args:
        features, block_size, block_map, options: as in `StructuredOrthogonal`.

    Source: Qiu et al., "Controlling text-to-image diffusion by orthogonal finetuning", NeurIPS 2023 (arXiv 2306.07280).
    """
    return StructuredOrthogonal(features, block_size, [Mixing()], block_map, **options)


def boft(
    features: int, block_size: int, factors: int, block_map: str = "cayley", **options: Unpack[TensorOptions]
) -> StructuredOrthogonal:
    """Build the Q of BOFT: m butterfly factors. Level l = 0, ..., m - 1 pairs runs of b / 2 entries at distance 2^l.

    Level 0 is block-diagonal. All entries of Q can be non-zero from m = 1 + log_2(n / b) on, if n / b is a power of 2.

    Args:
        features, block_size, block_map, options: as in `StructuredOrthogonal`.
        factors: m. With more than one, b must be even and n divisible by b 2^(m-1).

    Source: Liu et al., "Parameter-efficient orthogonal finetuning via butterfly factorization", ICLR 2024 (arXiv
    2311.06243).
    """
    check_factors(factors)
    mixings = [Mixing(), *(Mixing(parts=2, distance=2**level) for level in range(1, factors))]
    return StructuredOrthogonal(features, block_size, mixings, block_map, **options)


def gsoft(
    features: int, block_size: int, block_map: str = "cayley", factors: int = 2, **options: Unpack[TensorOptions]
) -> StructuredOrthogonal:
    """Build the Q of GSOFT, for the shuffle P = P_(r, br) with r = n / b blocks in each factor.

    Two factors give Q = P^T L P R: R mixes b neighbours, L the entries r apart. In general
    Q = P^{-(m-1)} D_m P D_{m-1} ... P D_1. All entries of Q can be non-zero from m = 1 + ceil(log_b r) on, see
    `lipnet.structured.factors_needed`: 2 if b >= r, and 4 for n = 768 and b = 8.

    Args:
        features, block_size, block_map, options: as in `StructuredOrthogonal`.
        factors: m.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).
    """
    check_factors(factors)
    # Strides give P^T D P without index tensors; higher powers of P need them.
    strided = [Mixing(), Mixing(parts=block_size, distance=max(1, features // max(1, block_size)))]
    powers = [ShufflePower(times) for times in range(2, factors)]
    mixings: list[Mixing | ShufflePower] = [*strided[:factors], *powers]
    return StructuredOrthogonal(features, block_size, mixings, block_map, **options)


def check_factors(factors: int) -> None:
    """Raise ValueError unless a Q may have this many factors. With 64, all its entries can be non-zero for any size."""
    if not 1 <= factors <= _MOST_FACTORS:
        raise ValueError(f"factors must be from 1 to {_MOST_FACTORS}, got {factors}")
