"""The skew-orthogonal convolution (SOC), used like ``nn.Conv2d``."""

from functools import partial
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional import (
    polynomial_gain,
    power_iteration,
    reshaped_filter_bound,
    reshaped_filters,
    reshaped_norm,
    skew_filter,
    space_to_depth,
    symbol_bound,
    taylor_coefficients,
    taylor_exponential,
)
from lipnet.layers.arguments import check_convolution, pair
from lipnet.layers.cache import WeightCache

# The published scaling: every reshaped filter has norm 0.7 for a 3 x 3 kernel, so that ||J|| <= sqrt(3 * 3) * 0.7 =
# 2.1; and norm 1 for a 1 x 1 kernel (Singla & Feizi, ICML 2021, code).
_JACOBIAN_NORM = 2.1
_JACOBIAN_NORM_POINTWISE = 1.0
# Norms below this count as this: such a filter is small enough, and dividing by its norm would be unstable.
_SMALLEST_NORM = 1e-12
# Steps of power iteration that a new layer's stored vectors have behind them.
_START_STEPS = 20
# Where a layer's gain exceeds 1, the tighter bound on its norm is tried up to this many channels in a group: it
# decomposes the frequency response at every point of a grid.
_SYMBOL_CHANNELS = 32


class SOC(nn.Module):
    r"""Skew-orthogonal convolution: :math:`y = \exp(J)\,x + b` with a skew-symmetric convolution J.

    J is the 'same' convolution with :math:`L = s\,(M - T(M)) / 2`, M being the parameter ``weight`` and T(M) the filter
    of the adjoint. J^T = -J, so exp(J) is orthogonal. The scale s > 0 brings the smallest norm among the reshaped
    filters to 0.7 * 3 / sqrt(kh kw) (to 1 for a 1 x 1 kernel), so that ||J|| <= 2.1, and the exponential is cut after
    ``train_terms`` or ``eval_terms`` powers of J.

    With c = max(in_channels * stride^2, out_channels) channels inside: a stride is space-to-depth followed by stride 1;
    the input is padded with zero channels up to c (an isometry), and the first ``out_channels`` channels of the result
    are kept (a contraction). With groups, M and exp(J) are block-diagonal, each group a SOC of its own with its own
    scale; groups whose input is padding alone, or whose output is not kept, are left out of the computation.

    In evaluation, s comes from the weights alone, by an eigenvalue decomposition in float64; it is kept until the
    weights change, and no buffer is read or written. In training, s comes from one step of power iteration on stored
    vectors: an estimate, cheap and differentiable, and no part of any guarantee. :meth:`lipschitz_bound` holds in
    either mode.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
        ``nn.Conv2d``.
            The kernel must be odd; padding ``"same"`` or its value (k - 1) / 2; dilation 1; padding mode ``"zeros"`` or
            ``"circular"``: everything else breaks the skew symmetry. Both directions have the same stride.
        train_terms: degree of the Taylor polynomial in training.
        eval_terms: degree of the Taylor polynomial in evaluation; 4, 8 and 12 are contractions at ||J|| <= 2.1.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021; grouped form: Gorbunov et al., NeurIPS 2024
    (arXiv 2406.10019).

    Example:
        >>> layer = SOC(3, 8, kernel_size=3, stride=2).eval()
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> layer.lipschitz_bound()
        1.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        train_terms: int = 5,
        eval_terms: int = 12,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)[0]
        self.channels = max(in_channels * self.stride**2, out_channels)
        check_convolution(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, self.channels
        )
        if min(train_terms, eval_terms) < 1:
            raise ValueError(f"terms must be at least 1, received {train_terms} (training), {eval_terms} (evaluation)")
        self.groups, self.padding_mode = groups, padding_mode
        self.train_terms, self.eval_terms = train_terms, eval_terms

        empty = partial(torch.empty, device=device, dtype=dtype)
        per_group, (height, width) = self.channels // groups, self.kernel_size
        # Groups that see no input give zeros, and those beyond the channels that are kept are not asked for.
        reached = -(-in_channels * self.stride**2 // per_group)
        self.active_groups = min(reached, -(-out_channels // per_group))
        self.weight = nn.Parameter(empty(self.channels, per_group, height, width))
        self.bias = nn.Parameter(empty(out_channels)) if bias else None
        # Right singular vectors of the reshaped filters: where the training estimate goes on from. In the state dict,
        # so that an interrupted training continues exactly as it would have.
        self.register_buffer("flat_vectors", empty(groups, per_group * height * width))
        self.register_buffer("blocked_vectors", empty(groups, per_group * width))
        self._filter_cache = WeightCache()
        self.reset_parameters()

    flat_vectors: Tensor
    blocked_vectors: Tensor

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation 1 / sqrt(channels in a group); biases as in ``nn.Conv2d``."""
        nn.init.normal_(self.weight, std=1 / sqrt(self.weight.shape[1]))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / sqrt(self.out_channels), 1 / sqrt(self.out_channels))
        nn.init.normal_(self.flat_vectors)
        nn.init.normal_(self.blocked_vectors)
        with torch.no_grad():
            self._store(self._estimated_norm(skew_filter(self.weight, self.groups), steps=_START_STEPS)[1])

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        weight, vectors = self._materialise(self.active_groups)
        if self.training:
            self._store(vectors)
        maps = x if x.dim() == 4 else x.unsqueeze(0)
        maps = _with_channels(space_to_depth(maps, self.stride), len(weight))
        maps = taylor_exponential(maps, weight, self._terms(), self.active_groups, self.padding_mode)
        maps = _with_channels(maps, self.out_channels)
        if self.bias is not None:
            maps = maps + self.bias.view(-1, 1, 1)
        return maps if x.dim() == 4 else maps.squeeze(0)

    def filter(self) -> Tensor:
        """The scaled skew filter L of the present mode, (c, c/groups, kh, kw), differentiable."""
        return self._materialise(self.groups)[0]

    def lipschitz_bound(self) -> float:
        """An upper bound on the Lipschitz constant of the function that this layer computes in its present mode.

        The norm of J is bounded from the filter that is convolved with, never from the stored vectors, and the
        truncated exponential then has the gain max |p(i t)| over |t| <= ||J||. Infinite if the weights are not finite.
        """
        coefficients = taylor_coefficients(self._terms())
        with torch.no_grad():
            weight = self._materialise(self.active_groups)[0]
            gain = polynomial_gain(coefficients, reshaped_filter_bound(weight, self.active_groups))
            if gain > 1 and weight.shape[1] <= _SYMBOL_CHANNELS:
                gain = min(gain, polynomial_gain(coefficients, symbol_bound(weight, self.active_groups)))
        return gain

    def train(self, mode: bool = True) -> "SOC":
        self._filter_cache.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join([*parts, f"terms={self.train_terms}/{self.eval_terms}"])

    def _terms(self) -> int:
        return self.train_terms if self.training else self.eval_terms

    def _materialise(self, groups: int) -> tuple[Tensor, list[Tensor]]:
        """The first groups of the filter, and the vectors that the next training step's estimate starts from."""
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.training:
                skew = skew_filter(self._first(groups), groups)
                norm, vectors = self._estimated_norm(skew)
                return self._scaled(skew, norm), vectors
            differentiable = torch.is_grad_enabled() and self.weight.requires_grad
            if differentiable or groups != self.active_groups:
                return self._exact_filter(groups), []
            return self._filter_cache.get(self.weight, partial(self._exact_filter, groups)), []

    def _first(self, groups: int) -> Tensor:
        return self.weight[: groups * self.weight.shape[1]]

    def _exact_filter(self, groups: int) -> Tensor:
        skew = skew_filter(self._first(groups).double(), groups)
        return self._scaled(skew, reshaped_norm(skew, groups)).to(self.weight.dtype)

    def _estimated_norm(self, skew: Tensor, steps: int = 1) -> tuple[Tensor, list[Tensor]]:
        """The smallest norm of the reshaped filters, (groups,), from below by power iteration, and the new vectors."""
        groups = len(skew) // skew.shape[1]
        starts = (self.flat_vectors[:groups], self.blocked_vectors[:groups])
        matrices = reshaped_filters(skew, groups)
        estimates = [power_iteration(*start, steps) for start in zip(matrices, starts, strict=True)]
        norms, vectors = zip(*estimates, strict=True)
        return torch.stack(norms).amin(dim=0), list(vectors)

    def _store(self, vectors: list[Tensor]) -> None:
        for buffer, new in zip((self.flat_vectors, self.blocked_vectors), vectors, strict=True):
            buffer[: len(new)].copy_(new)

    def _scaled(self, skew: Tensor, norm: Tensor) -> Tensor:
        """The skew filter whose groups have reshaped filters of these norms, brought to the norm aimed at."""
        taps = prod(self.kernel_size)
        target = _JACOBIAN_NORM_POINTWISE if taps == 1 else _JACOBIAN_NORM / sqrt(taps)
        scale = target / norm.clamp_min(_SMALLEST_NORM)
        return skew * scale.repeat_interleave(skew.shape[1]).view(-1, 1, 1, 1).to(skew.dtype)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            needed = f"(B, {self.in_channels}, H, W) or ({self.in_channels}, H, W)"
            raise ValueError(f"SOC needs an input of shape {needed}, received {tuple(x.shape)}")
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(
                f"SOC with stride {self.stride} needs a height and a width divisible by it, "
                f"received {x.shape[-2]} x {x.shape[-1]}"
            )
        reach = tuple(size // 2 for size in self.kernel_size)
        height, width = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        if self.padding_mode == "circular" and (height < reach[0] or width < reach[1]):
            raise ValueError(f"circular padding of {reach} needs maps no smaller, received {height} x {width}")


def _with_channels(maps: Tensor, channels: int) -> Tensor:
    """The first ``channels`` channels of the maps, with zeros for those that they do not have."""
    missing = channels - maps.shape[1]
    return F.pad(maps, (0, 0, 0, 0, 0, missing)) if missing > 0 else maps[:, :channels]  # F.pad always copies
