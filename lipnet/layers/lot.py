"""Orthogonal convolutions by the polar factor (layer-wise orthogonal training)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipnet.functional.orthogonal_matrices import polar
from lipnet.layers.frequency import FrequencyLayer
from lipnet.layers.initial import reset_identity, reset_uniform


class LOT(FrequencyLayer):
    """Orthogonal convolution by the polar factor V (V^* V)^{-1/2} of its frequency response.

    Newton-Schulz steps (`lipnet.functional.orthogonal_matrices.polar`) approximate the factor from below: the norm is
    at most 1 after any number of them. Evaluation takes more steps, in float64. They converge, except in directions
    that the response shrinks by a factor of ten thousand. The layer has orthonormal rows if it reduces the channels,
    else orthonormal columns.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            see `lipnet.layers.frequency.FrequencyLayer`. As published: ``padding_mode="zeros"``.
        train_steps, eval_steps: Newton-Schulz steps in training and evaluation; as published, 10 in both.

    Source: Xu, Li & Li, "LOT: Layer-wise Orthogonal Training on Improving l2 Certified Robustness", NeurIPS 2022
    (arXiv 2210.11620). The published layer adds 1e-4 to the diagonal of V V^*, which these steps do not need.

    Example:
        >>> layer = LOT(8, 8).eval()
        >>> x = torch.rand(1, 8, 4, 4)
        >>> torch.allclose(layer(x), x, atol=1e-5)  # the initial filter is the identity
        True
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
        train_steps: int = 10,
        eval_steps: int = 30,
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
        if min(train_steps, eval_steps) < 1:
            raise ValueError(f"steps must be at least 1, got {train_steps} in training, {eval_steps} in evaluation")
        self.train_steps, self.eval_steps = train_steps, eval_steps
        self.weight = nn.Parameter(torch.empty(self._weight_shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the identity, as published, if channels do not change; else draw a filter as ``nn.Conv2d`` does."""
        if self.group_shape[0] == self.group_shape[1]:
            reset_identity(self.weight, self.groups)
            if self.bias is not None:
                nn.init.zeros_(self.bias)
        else:
            reset_uniform(self.weight)
            self.reset_bias()

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def matrices(self, weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return polar(self.response(weights[0], size), self.train_steps if self.training else self.eval_steps)
