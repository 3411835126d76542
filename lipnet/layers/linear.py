"""Orthogonal linear heads."""

from typing import Any

from torch import Tensor

from lipnet.layers.soc import SOC


class SOCLinear(SOC):
    """A linear map by a 1 x 1 SOC: with orthonormal rows if it reduces, with orthonormal columns if it expands.

    The head of LipConvNet: a c x c orthogonal matrix, c = max(in_features, out_features), of which the first
    ``out_features`` rows and the first ``in_features`` columns are used.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        options: the keyword options of `SOC`.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: for an input of another shape.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, kernel_size=1, bias=bias, **options)

    @property
    def in_features(self) -> int:
        return self.in_channels

    @property
    def out_features(self) -> int:
        return self.out_channels

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"SOCLinear needs an input of shape (B, {self.in_features}), got {tuple(x.shape)}")
        return super().forward(x[:, :, None, None]).flatten(1)
