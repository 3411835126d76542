"""The convolution by ``F.conv2d``."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.convolution import same_convolution, same_convolution_weight_gradient
from lipnet.functional.transforms import add_scaled_


class Direct:
    """A 'same' convolution J with the methods that `skew_polynomial` needs; other forms override them with faster ones.

    `enter` converts feature maps to the form's own layout, in which they stay from call to call, and `leave` converts
    them back. `collect` accumulates the gradient of the filter, and `filter_gradient` returns it.

    Args:
        weight: filter (c, c/groups, kh, kw).
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``.
    """

    def __init__(self, weight: Tensor, groups: int, padding_mode: str) -> None:
        self.weight, self.groups, self.padding_mode = weight, groups, padding_mode
        # Tensors that backward needs to build the same form again.
        self.saved: list[Tensor] = []
        self._total: Tensor | None = None

    def enter(self, maps: Tensor) -> Tensor:
        """Convert maps (B, c, H, W) to the form's layout, unless they already have it."""
        return maps.to_dense() if maps.is_mkldnn else maps

    def leave(self, maps: Tensor) -> Tensor:
        """Convert maps in the form's layout to (B, c, H, W)."""
        return maps

    def apply(self, maps: Tensor, shift: float = 0.0, sign: int = 1) -> Tensor:
        """Return (sign J + shift) maps in new memory."""
        if shift == 0 and sign == 1:
            return self._convolve(maps, self.weight)
        # Add the shift to the smaller of the two: to the middle tap of the filter, or to the maps.
        if maps.numel() > self.weight.numel():
            return self._convolve(maps, self._shifted(shift, sign))
        result = self._convolve(maps, self.weight)
        return add_scaled_(result if sign == 1 else result.neg_(), maps, shift)

    def apply_first(self, maps: Tensor, shift: float, channels: int) -> Tensor:
        """Return the first ``channels`` channels of (J + shift) maps, as (B, channels, H, W); for one group only."""
        return self.leave(self._convolve(maps, self._shifted(shift, 1)[:channels]))

    def apply_to_first(self, maps: Tensor, shift: float) -> Tensor:
        """Return (-J + shift) maps for maps of the first channels; all others are zero. For one group only."""
        return self._convolve(self.enter(maps), self._shifted(shift, -1)[:, : maps.shape[1]].contiguous())

    def collect(self, maps: Tensor, gradient: Tensor, sign: int) -> None:
        """Add the filter gradient of ``sign * J maps`` for the incoming ``gradient``."""
        # A gradient for the first channels only reaches the first filter rows.
        rows = self.weight[: gradient.shape[1]]
        part = same_convolution_weight_gradient(maps, self.enter(gradient), rows, self.groups, self.padding_mode)
        missing = len(self.weight) - len(part)
        if missing:
            part = F.pad(part, (0, 0, 0, 0, 0, 0, 0, missing))
        if self._total is not None:
            add_scaled_(self._total, part, sign)
        else:
            self._total = part if sign == 1 else part.neg_()

    def filter_gradient(self) -> Tensor:
        """Return the sum of the collected gradients."""
        return torch.zeros_like(self.weight) if self._total is None else self._total

    def _convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        return same_convolution(maps, weight, self.groups, self.padding_mode)

    def _shifted(self, shift: float, sign: int) -> Tensor:
        """Return the filter of sign J + shift."""
        shifted = self.weight.clone() if sign == 1 else -self.weight
        rows, columns = (length // 2 for length in shifted.shape[-2:])
        middle = torch.unflatten(shifted, 0, (self.groups, -1))[..., rows, columns]
        middle.diagonal(dim1=-2, dim2=-1).add_(shift)
        return shifted
