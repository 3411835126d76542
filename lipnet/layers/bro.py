"""Orthogonal layers by block reflectors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipnet.functional.orthogonal_matrices import block_reflector
from lipnet.layers.frequency import FrequencyLayer, LinearByFrequency
from lipnet.layers.initial import reset_identity


class BRO(FrequencyLayer):
    """Orthogonal convolution by a block reflector I - 2 V (V^* V + e I)^{-1} V^* at each frequency.

    V is the response of the filter ``weight``. In each group it has r inputs and
    c = max(in_channels stride^2, out_channels) / groups outputs. The layer takes the first rows and columns of the
    reflector. e is 1e-5 times the mean of the diagonal of V^* V. It only shrinks the reflector, whose eigenvalues lie
    in (-1, 1].

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            see `lipnet.layers.frequency.FrequencyLayer`. As published: ``padding_mode="zeros"``.
        rank: r in each group, from 1 to c; half of c by default, as in BRONet. The published LipConvNet has c - 1.

    Source: Lai et al., "Enhancing Certified Robustness via Block Reflector Orthogonal Layers and Logit Annealing Loss",
    ICML 2025 (arXiv 2505.15174).

    Example:
        >>> layer = BRO(8, 16, padding_mode="zeros").eval()
        >>> layer(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 16, 4, 4])
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
        rank: int | None = None,
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
        channels = max(self.group_shape)
        self.rank = max(1, channels // 2) if rank is None else rank
        if not 1 <= self.rank <= channels:
            raise ValueError(f"rank must be from 1 to {channels}, the channels of a group, got {rank}")
        self.weight = nn.Parameter(torch.empty(self._weight_shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with the first unit vectors as V, as published; draw biases from +-1 / sqrt(out_channels)."""
        reset_identity(self.weight, self.groups)
        self.reset_bias()

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.groups * max(self.group_shape), self.rank, *self.kernel_size

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def matrices(self, weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        out, inner = self.group_shape
        return block_reflector(self.response(weights[0], size))[..., :out, :inner]


class BROLinear(LinearByFrequency, BRO):
    """Linear layer by a block reflector; see `BRO`.

    Args:
        in_features, out_features, bias, device, dtype: as in ``nn.Linear``.
        rank: see `BRO`.

    Shape:
        (B, in_features) to (B, out_features).
    """
