"""Orthogonal matrices on the channels: 1 x 1 convolutions, dense or as a group-and-shuffle product."""

from math import sqrt
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional import channel_shuffle, channel_unshuffle, product_up
from lipnet.functional.autocast import without_autocast
from lipnet.functional.contractions import orthogonal_norm_bound
from lipnet.functional.orthogonal_matrices import orthogonal_cayley
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, addition, exact, products
from lipnet.layers.arguments import check_groups, check_weight, for_channels
from lipnet.layers.base import LipschitzModule
from lipnet.layers.cache import WeightCache

PARAMETRIZATIONS = ("cayley", "manifold")


class OrthogonalMixing(LipschitzModule):
    r"""Orthogonal matrix on the channels: :math:`y = Q x + b` at each pixel.

    - ``groups=1``: Q is dense, with C^2 parameters.
    - ``groups=g``: group and shuffle, :math:`Q = P^T L P R`. L and R are block-diagonal with g orthogonal blocks of
      size C / g, and the shuffle P passes channels from all blocks of R to each block of L. Q has 2 C^2 / g parameters.
      All of its entries can be non-zero if g^2 <= C.

    The parameter ``weight`` stacks one matrix per block: (C, C), or (2 C, C / g). With ``parametrization="cayley"``
    these are free matrices A, and the blocks are the Cayley transforms of A - A^T. With ``"manifold"`` they are the
    blocks themselves: they start orthogonal, and `lipnet.training` keeps them so by Riemannian steps. Other optimizers
    let them drift. The bound is computed from the matrices in use, so it covers drift.

    Evaluation computes the blocks in float64, rounds them to the weight's dtype, and caches them.

    Args:
        channels: C.
        groups: g, a divisor of C.
        bias: add a learned b.
        parametrization: ``"cayley"`` or ``"manifold"``.
        device, dtype: of the parameters.

    Shape:
        (B, C, ...) to the same shape.

    Raises:
        ValueError: if the groups do not divide the channels, or the parametrization is unknown; for an input with
            another number of channels.

    Source: dense: LipNeXt (arXiv 2601.18513); group and shuffle: Gorbunov et al., NeurIPS 2024 (arXiv 2406.10019).

    Example:
        >>> layer = OrthogonalMixing(16, groups=4, dtype=torch.float64).eval()
        >>> layer.weight.shape
        torch.Size([32, 4])
        >>> 1 <= layer.lipschitz_bound() < 1 + 1e-12
        True
    """

    def __init__(
        self,
        channels: int,
        groups: int = 1,
        bias: bool = True,
        *,
        parametrization: str = "cayley",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_groups(groups, {"channels": channels})
        if parametrization not in PARAMETRIZATIONS:
            raise ValueError(f"parametrization must be one of {PARAMETRIZATIONS}, got {parametrization!r}")
        self.channels, self.groups, self.parametrization = channels, groups, parametrization
        self.weight = nn.Parameter(torch.empty(self._weight_shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        self._cache: WeightCache[Tensor] = WeightCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal matrices A of variance g / C, for ``"manifold"`` their Cayley transforms; set biases to 0."""
        nn.init.normal_(self.weight, std=1 / sqrt(self.weight.shape[-1]))
        if self.parametrization == "manifold" and not self.weight.is_meta:
            with torch.no_grad():
                blocks = self._blocks(self.weight)
                blocks.copy_(orthogonal_cayley(blocks.double()))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def _weight_shape(self) -> tuple[int, int]:
        return self.channels if self.groups == 1 else 2 * self.channels, self.channels // self.groups

    def check(self) -> None:
        check_weight("weight", self.weight, self._weight_shape)
        check_weight("bias", self.bias, (self.channels,))

    def forward(self, x: Tensor) -> Tensor:
        y = self.rotate(x, self.matrices())
        return y if self.bias is None else y + for_channels(self.bias, y)

    def matrices(self, *, exact: bool = False) -> Tensor:
        """Return the orthogonal blocks of all factors in the present mode, (factors, g, C / g, C / g), R first.

        ``exact`` compares the weight's values on every device, see `lipnet.layers.cache.WeightCache`.
        """
        self.check()
        if self.parametrization == "manifold":
            return self._blocks(self.weight)
        with without_autocast(self.weight.device):
            if self.training:
                return orthogonal_cayley(self._blocks(self.weight))
            # A trace cannot compare values.
            cached = self._cache.frozen() if torch.compiler.is_exporting() else None
            if cached is not None:
                return cached
            if torch.compiler.is_exporting() or (torch.is_grad_enabled() and self.weight.requires_grad):
                return self._evaluated()
            return self._cache.get([self.weight], self._evaluated, exact=exact)

    def _blocks(self, weight: Tensor) -> Tensor:
        size = weight.shape[1]
        return weight.view(-1, self.groups, size, size)

    def _evaluated(self) -> Tensor:
        # The solver returns a column-major tensor, and an export would mix up its layout.
        return orthogonal_cayley(self._blocks(self.weight).double()).to(self.weight.dtype).contiguous()

    def rotate(self, x: Tensor, matrices: Tensor, *, transposed: bool = False) -> Tensor:
        """Return Q x, or Q^T x, at each pixel of x (B, C, ...), for the blocks of `matrices`."""
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"{type(self).__name__} needs an input of shape (B, {self.channels}, ...), got {tuple(x.shape)}"
            )
        maps = x if x.dim() == 4 else x.reshape(*x.shape[:2], -1, 1)
        if self.groups == 1:
            return self._product(maps, matrices[0], transposed).reshape(x.shape)
        first, second = matrices.unbind()
        if transposed:
            maps = self._across(maps, second, transposed)
            return self._product(maps, first, transposed).reshape(x.shape)
        maps = self._product(maps, first, transposed)
        return self._across(maps, second, transposed).reshape(x.shape)

    def _across(self, maps: Tensor, blocks: Tensor, transposed: bool) -> Tensor:
        """Multiply by P^T D P, where the blocks of D mix channels of all groups."""
        shuffled = channel_shuffle(maps, self.groups)
        return channel_unshuffle(self._product(shuffled, blocks, transposed), self.groups)

    def _product(self, maps: Tensor, blocks: Tensor, transposed: bool) -> Tensor:
        """Multiply by the block-diagonal matrix D with these blocks (g, n, n), or by its transpose."""
        oriented = blocks.mT if transposed else blocks
        return F.conv2d(maps, oriented.reshape(self.channels, -1, 1, 1), groups=self.groups)

    def manifold_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that an optimizer must keep orthogonal."""
        return [self.weight] if self.parametrization == "manifold" else []

    def lipschitz_bound(self) -> float:
        """Bound ||Q|| by the factors' norms, from the residual D^T D - I of the matrices in use, rounded up."""
        with torch.no_grad():
            return product_up(orthogonal_norm_bound(blocks) for blocks in self.matrices(exact=True))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of the products with the factors, and of adding the bias."""
        step = self.rotation_step(signal)
        return step.then(addition(signal.after(step, shape), self.bias, signal.entries // self.channels))

    @torch.no_grad()
    def rotation_step(self, signal: Signal, *, transposed: bool = False) -> Step:
        """Bound the rounding of `rotate`."""
        step = exact(signal)
        factors = list(self.matrices(exact=True))
        for blocks in reversed(factors) if transposed else factors:
            factor = products(
                signal.after(step, signal.shape),
                length=blocks.shape[-1],
                magnitude=absolute_norm(blocks.mT if transposed else blocks),
                gain=orthogonal_norm_bound(blocks),
                outputs=signal.entries,
            )
            step = step.then(factor)
        return step

    def train(self, mode: bool = True) -> Self:
        if mode and not self.training:
            # Training needs the memory.
            self._cache.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        bias = ", bias=False" if self.bias is None else ""
        return f"{self.channels}{groups}{bias}, parametrization={self.parametrization!r}"
