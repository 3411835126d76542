"""Bottleneck adapters on the output of a layer: down-projection, activation, up-projection."""

from collections.abc import Callable
from math import sqrt
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipnet.functional.autocast import without_autocast
from lipnet.structured.additive import AdditiveUpdate
from lipnet.structured.orthogonal import TensorOptions
from lipnet.structured.updates import WeightUpdate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Dense(AdditiveUpdate):
    """D without structure, out_features x in_features parameters."""

    linear_parameter = "entries"

    def __init__(self, out_features: int, in_features: int, **options: Unpack[TensorOptions]) -> None:
        super().__init__(out_features, in_features)
        self.entries = nn.Parameter(torch.zeros(out_features, in_features, **options))

    def to_dense(self) -> Tensor:
        return self.entries

    def matmul(self, x: Tensor) -> Tensor:
        return F.linear(x, self.entries)


class Bottleneck(WeightUpdate):
    """y + U act(D y + d) + u after a layer with outputs y. U, d and u start at zero, so that it starts as the identity.

    The weight of the layer stays unchanged: `forward` returns it, and `output` changes the layer's output. The linear
    parameter of D starts uniform in +-1 / sqrt(its last dimension), because nothing would train if U and D were both
    zero.

    Args:
        out_features, in_features: shape of the layer's weight.
        down: D, (width, out_features), the down-projection.
        up: U, (out_features, width), the up-projection.
        activation: one of ``"gelu"``, ``"relu"``, ``"silu"`` and ``"tanh"``.
        bias: learn d and u.

    Raises:
        ValueError: if the projections do not fit, or for another activation.

    Source: Houlsby et al., ICML 2019 (arXiv 1902.00751); structured: Sehanobish et al., NeurIPS 2024 (arXiv
    2406.17740).

    Example:
        >>> bottleneck = Bottleneck(8, 4, Dense(2, 8), Dense(8, 2))
        >>> y = torch.rand(3, 8)
        >>> torch.equal(bottleneck.output(y), y)
        True
    """

    merges = False

    def __init__(
        self,
        out_features: int,
        in_features: int,
        down: AdditiveUpdate,
        up: AdditiveUpdate,
        activation: str = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__(out_features, in_features)
        width = down.shape[0]
        if down.shape != (width, out_features) or up.shape != (out_features, width):
            raise ValueError(
                f"projections must be (width, {out_features}) and ({out_features}, width), got {down.shape}, {up.shape}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.down, self.up, self.activation = down, up, activation
        start = down.get_parameter(down.linear_parameter)
        limit = 1 / sqrt(start.shape[-1])
        nn.init.uniform_(start, -limit, limit)
        self.down_bias = nn.Parameter(start.new_zeros(width)) if bias else None
        self.up_bias = nn.Parameter(start.new_zeros(out_features)) if bias else None

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def output(self, y: Tensor) -> Tensor:
        """Return y + t (U act(D y + d) + u) for outputs y (..., out_features), in the dtype of y."""
        if self.strength == 0:
            return y
        with without_autocast(y.device):
            wide = y.to(torch.promote_types(y.dtype, next(self.parameters()).dtype))
            hidden = self.down.matmul(wide)
            hidden = ACTIVATIONS[self.activation](hidden if self.down_bias is None else hidden + self.down_bias)
            added = self.up.matmul(hidden)
            added = added if self.up_bias is None else added + self.up_bias
        return y + (self.strength * added).to(y.dtype)

    def interpolated(self, strength: float) -> dict[str, Tensor]:
        """Return parameters of U and u that scale the added output by t."""
        scaled = {f"up.{self.up.linear_parameter}": self.up.get_parameter(self.up.linear_parameter)}
        scaled |= {} if self.up_bias is None else {"up_bias": self.up_bias}
        return {name: strength * value for name, value in scaled.items()}

    def extra_repr(self) -> str:
        return f"{self.shape[0]}, {self.shape[1]}, activation={self.activation!r}"
