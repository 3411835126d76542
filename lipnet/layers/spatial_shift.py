"""Spatial mixing without convolutions: shifts of channels by one pixel, between rotations of the channels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional import product_up
from lipnet.functional.convolution import check_padding_mode
from lipnet.functional.rounding_error import Signal, Step, exact
from lipnet.layers.base import LipschitzModule, check_part
from lipnet.layers.orthogonal_mixing import OrthogonalMixing

# (dimension, step) of each part of the channels: up, down, left and right.
_DIRECTIONS = ((2, -1), (2, 1), (3, -1), (3, 1))


class SpatialShift(LipschitzModule):
    """Shift of channels by one pixel: equal shares of them up, down, left and right.

    For n = floor(share C), the first n channels move up, the next n down, the next n left and the next n right. The
    rest stays. Circular padding permutes the pixels, which is an isometry; zero padding loses those that leave the map.

    Args:
        share: part of the channels for each direction, in (0, 1/4].
        padding_mode: ``"circular"`` or ``"zeros"``.

    Shape:
        (B, C, H, W) to the same shape.

    Raises:
        ValueError: for a share out of range, an unknown padding mode, inputs of another shape, and so few channels that
            n = 0.

    Source: LipNeXt (arXiv 2601.18513).

    Example:
        >>> SpatialShift(share=0.25)(torch.arange(8.0).view(1, 4, 2, 1))[0, 0].flatten().tolist()
        [1.0, 0.0]
    """

    def __init__(self, share: float = 1 / 16, padding_mode: str = "circular") -> None:
        super().__init__()
        if not 0 < share <= 0.25:
            raise ValueError(f"share must be in (0, 1/4], got {share}")
        check_padding_mode(padding_mode)
        self.share, self.padding_mode = share, padding_mode

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"SpatialShift needs an input of shape (B, C, H, W), got {tuple(x.shape)}")
        each = int(self.share * x.shape[1])
        if each == 0:
            raise ValueError(
                f"share {self.share:g} of {x.shape[1]} channels is less than one channel, so that nothing would move; "
                "use a larger share"
            )
        *parts, rest = torch.split(x, [each] * 4 + [x.shape[1] - 4 * each], dim=1)
        moved = [self._move(part, dim, step) for part, (dim, step) in zip(parts, _DIRECTIONS, strict=True)]
        return torch.cat([*moved, rest], dim=1)

    def _move(self, maps: Tensor, dim: int, step: int) -> Tensor:
        if self.padding_mode == "circular":
            return maps.roll(step, dim)
        margins = (max(step, 0), max(-step, 0))
        # F.pad counts from the last dimension; negative margins would crop.
        padded = F.pad(maps, margins if dim == 3 else (0, 0, *margins))
        return padded.narrow(dim, max(-step, 0), maps.shape[dim])

    def lipschitz_bound(self) -> float:
        """Return 1: entries are permuted, or dropped at the border."""
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Return an exact step: entries are moved, not changed."""
        return exact(signal)

    def extra_repr(self) -> str:
        return f"share={self.share:g}, padding_mode={self.padding_mode!r}"


class SpatialMixing(LipschitzModule):
    r"""Spatial mixing of rotated channels: :math:`y = R^T S(R x)`, with one orthogonal R and a `SpatialShift` S.

    Args:
        channels: C.
        groups: 1 for a dense R, g for a group-and-shuffle product, see `OrthogonalMixing`.
        share, padding_mode: of the shift, see `SpatialShift`.
        parametrization: of R, see `OrthogonalMixing`.
        device, dtype: of the parameters.

    Shape:
        (B, C, H, W) to the same shape.

    Raises:
        ValueError: as for `OrthogonalMixing` and `SpatialShift`.

    Source: LipNeXt (arXiv 2601.18513).
    """

    def __init__(
        self,
        channels: int,
        groups: int = 1,
        *,
        share: float = 1 / 16,
        padding_mode: str = "circular",
        parametrization: str = "cayley",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rotation = OrthogonalMixing(
            channels, groups, bias=False, parametrization=parametrization, device=device, dtype=dtype
        )
        self.shift = SpatialShift(share, padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        # Computed once for both products: in training, each call would compute them anew.
        matrices = self.rotation.matrices()
        shifted = self.shift(self.rotation.rotate(x, matrices))
        return self.rotation.rotate(shifted, matrices, transposed=True)

    def check(self) -> None:
        check_part("rotation", self.rotation, OrthogonalMixing)
        check_part("shift", self.shift, SpatialShift)

    def lipschitz_bound(self) -> float:
        """Return ||R||^2, rounded up, from the matrices in use."""
        return product_up([self.rotation.lipschitz_bound()] * 2)

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of the products with R and with its transpose; the shift is exact."""
        step = self.rotation.rotation_step(signal)
        return step.then(self.rotation.rotation_step(signal.after(step, shape), transposed=True))
