"""The published SOC layer, the baseline of the benchmarks.

It estimates its norm by power iteration on four reshaped filters, with element-wise products and sums over the whole
filter. Its Taylor series is `lipnet.functional.reference.polynomial`, differentiated by autograd.

Sources: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021; groups: Gorbunov et al., NeurIPS 2024 (arXiv
2406.10019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional import reference, skew_filter, taylor_coefficients
from lipnet.layers import ChannelShuffle

# Axes of (groups, out, in, height, width) over which the two singular vectors of each reshaped filter are summed.
_RESHAPINGS = (((2, 4), (1, 3)), ((2, 3), (1, 4)), ((2, 3, 4), (1,)), ((1, 3, 4), (2,)))
_SCALE = 0.7


class PublishedSOC(nn.Module):
    """SOC as published: signature and parameters of `lipnet.layers.SOC`, zero padding.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: as in `lipnet.layers.SOC`.
        train_terms, eval_terms: degree of the Taylor polynomial in training and in evaluation.

    Shape:
        (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        train_terms: int = 5,
        eval_terms: int = 12,
    ) -> None:
        super().__init__()
        self.out_channels, self.stride, self.groups = out_channels, stride, groups
        self.train_terms, self.eval_terms = train_terms, eval_terms
        self.channels = max(in_channels * stride**2, out_channels)
        per_group = self.channels // groups
        self.weight = nn.Parameter(torch.randn(self.channels, per_group, kernel_size, kernel_size) / per_group**0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        shape = (groups, per_group, per_group, kernel_size, kernel_size)
        for number, (axes, _) in enumerate(_RESHAPINGS):
            size = [length if axis == 0 or axis in axes else 1 for axis, length in enumerate(shape)]
            self.register_buffer(f"vector{number}", _unit(torch.randn(size)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.stride)
        x = F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))
        taylor = taylor_coefficients(self.train_terms if self.training else self.eval_terms)
        result = reference.polynomial(x, self.filter(), taylor, self.groups)
        return result[:, : self.out_channels] + self.bias.view(-1, 1, 1)

    def filter(self) -> Tensor:
        """Return the skew filter, scaled so that the smallest of its four norms is 0.7, or 1 for a 1 x 1 kernel."""
        skew = skew_filter(self.weight, self.groups)
        grouped = skew.reshape(self.groups, -1, *skew.shape[1:])
        norms = [self._norm(grouped, number) for number in range(len(_RESHAPINGS))]
        norm = torch.stack(norms).amin(dim=0)
        scale = _SCALE if skew.shape[-1] > 1 else 1.0
        return (scale * grouped / norm).flatten(0, 1)

    def _norm(self, grouped: Tensor, number: int) -> Tensor:
        """Estimate one of the four norms by a step of power iteration, in training and in evaluation alike."""
        right_axes, left_axes = _RESHAPINGS[number]
        right: Tensor = getattr(self, f"vector{number}")
        with torch.no_grad():
            left = _unit((grouped * right).sum(right_axes, keepdim=True))
            right = _unit((grouped * left).sum(left_axes, keepdim=True))
            getattr(self, f"vector{number}").copy_(right)
        return (grouped * left * right).sum((1, 2, 3, 4), keepdim=True)


class PublishedGSSOC(nn.Sequential):
    """GS-SOC (groups, -) as published: a paired shuffle, if the groups divide the channels, then a grouped SOC."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, *, groups: int = 4
    ) -> None:
        shuffle = nn.Identity() if in_channels % groups else ChannelShuffle(groups, paired=True)
        super().__init__(shuffle, PublishedSOC(in_channels, out_channels, kernel_size, stride, groups))


def _unit(vectors: Tensor) -> Tensor:
    """Divide each group's vector by its norm."""
    norms: Tensor = vectors.flatten(1).norm(dim=1)
    return vectors / norms.view(-1, 1, 1, 1, 1)
