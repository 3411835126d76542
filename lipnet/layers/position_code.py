"""A learned position code that is added to the feature maps."""

import torch
from torch import Tensor, nn

from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers.base import LipschitzModule


class PositionCode(LipschitzModule):
    r"""Learned position code: :math:`y_{cuv} = x_{cuv} + r_{cu} + s_{cv}`, with codes r for rows and s for columns.

    It lets layers that treat all pixels alike, because of circular padding, tell pixels apart. Both codes start at 0.

    Args:
        channels: C.
        size: height and width of the maps.
        device, dtype: of the parameters.

    Shape:
        (B, C, size, size) to the same shape.

    Raises:
        ValueError: for inputs of another shape.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(channels, size, 1, device=device, dtype=dtype))
        self.columns = nn.Parameter(torch.zeros(channels, 1, size, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        channels, size, _ = self.rows.shape
        # Codes of other shapes would repeat the maps, which enlarges their norm.
        if self.rows.shape != (channels, size, 1) or self.columns.shape != (channels, 1, size):
            raise ValueError(
                f"rows and columns must have shape (C, size, 1) and (C, 1, size), got {tuple(self.rows.shape)} and "
                f"{tuple(self.columns.shape)}"
            )
        if tuple(x.shape[1:]) != (channels, size, size):
            raise ValueError(f"PositionCode needs an input (B, {channels}, {size}, {size}), got {tuple(x.shape)}")
        return x + (self.rows + self.columns).to(x.dtype)

    def lipschitz_bound(self) -> float:
        """Return 1: the code is a shift."""
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of an addition, whose exact operand is the rounded sum of both codes."""
        return addition(signal, (self.rows + self.columns).flatten(), pixels=1)

    def extra_repr(self) -> str:
        return f"{self.rows.shape[0]}, size={self.rows.shape[1]}"
