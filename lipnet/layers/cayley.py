"""Orthogonal layers by the Cayley transform."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipnet.functional.orthogonal_matrices import cayley
from lipnet.layers.arguments import check_weight
from lipnet.layers.frequency import FrequencyLayer, LinearByFrequency
from lipnet.layers.initial import reset_uniform


class Cayley(FrequencyLayer):
    """Orthogonal convolution by the Cayley transform of its frequency response.

    At each frequency, `lipnet.functional.orthogonal_matrices.cayley` maps the response of the filter
    ``alpha weight / ||weight||`` to a matrix with orthonormal columns, or rows if the layer reduces the channels. Each
    group learns a gain ``alpha``, which starts at ``||weight||``. The published layer normalises the response instead,
    whose norm grows with the number of frequencies; this layer is the same for maps of any size.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            see `lipnet.layers.frequency.FrequencyLayer`.

    Source: Trockman & Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", ICLR 2021
    (arXiv 2104.07167).

    Example:
        >>> layer = Cayley(3, 8, kernel_size=3, stride=2).eval()
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> layer.lipschitz_bound()
        1.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "circular",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device=device,
            dtype=dtype,
        )
        self.weight = nn.Parameter(torch.empty(self._weight_shape, device=device, dtype=dtype))
        self.alpha = nn.Parameter(torch.empty(self.groups, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the filter as ``nn.Conv2d`` does, and biases from +-1 / sqrt(out_channels). alpha is ||weight||."""
        reset_uniform(self.weight)
        self._reset_gain()
        self.reset_bias()

    def _reset_gain(self) -> None:
        with torch.no_grad():
            self.alpha.copy_(self.weight.view(self.groups, -1).norm(dim=1))

    def check(self) -> None:
        super().check()
        check_weight("alpha", self.alpha, (self.groups,))

    def weights(self) -> list[Tensor]:
        return [self.weight, self.alpha]

    def matrices(self, weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        weight, alpha = weights
        grouped = weight.view(self.groups, -1)
        norms = grouped.norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)
        # In this order, a zero filter with a large alpha gives zeros: alpha / norms could overflow.
        scaled = alpha[:, None] * (grouped / norms[:, None])
        return cayley(self.response(scaled.view(weight.shape), size))


class CayleyLinear(LinearByFrequency, Cayley):
    """Linear layer with orthonormal rows or columns by the Cayley transform; see `Cayley`.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.

    Shape:
        (B, in_features) to (B, out_features).
    """

    def reset_parameters(self) -> None:
        """Draw normal weights as in Xavier's initialisation, as published, and the rest as in `Cayley`."""
        nn.init.xavier_normal_(self.weight)
        self._reset_gain()
        self.reset_bias()
