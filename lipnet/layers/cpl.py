"""The convex potential layer (CPL), a residual convolution."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional import same_convolution
from lipnet.functional.frequency import frequency_response, room_beyond_grid
from lipnet.functional.kernel_norms import kernel_norm_bound
from lipnet.functional.norm_estimates import start_vector
from lipnet.functional.skew import adjoint_filter
from lipnet.layers.cache import is_frozen, versions
from lipnet.layers.operands import Operands
from lipnet.layers.potential import SMALLEST_NORM_OF_W, GradientStep

# Frequencies in each direction: for bounds and evaluation, and for the estimate of training.
_GRID, _POINTS = 16, 8
# Power iteration runs from several vectors: a single one may be almost orthogonal to the largest singular vector.
_VECTORS = 4
# Number of frequencies at which it continues until it converges.
_CANDIDATES = 4
# Share of a fixed vector in the stored one, so that no direction stays invisible to the estimate.
_MIXED_IN = 1e-3
# Room for estimates that have not converged, so that the bound of V stays below sqrt(2).
_ROOM = 1.01


@torch.library.custom_op("lipnet::convolution_norm_estimates", mutates_args=())
def norm_estimates(weight: Tensor, groups: int) -> Tensor:
    """Estimate the norm of each group's convolution, from the weight alone, as a single node of a traced graph.

    Power iteration starts at all frequencies of a grid in float32, and continues in float64 at the most promising ones.

    Args:
        weight: filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.

    Returns:
        Lower estimates (groups,) of each group's largest norm on the grid, not differentiable.
    """
    return torch.stack([_norm_estimate(block) for block in weight.chunk(groups)])


@norm_estimates.register_fake
def _(weight: Tensor, groups: int) -> Tensor:
    return weight.new_empty(groups)


def _norm_estimate(weight: Tensor) -> Tensor:
    size = (1 if weight.shape[-2] == 1 else _GRID, 1 if weight.shape[-1] == 1 else _GRID)
    single = frequency_response(weight.float(), size).flatten(0, 2)
    start = start_vector(weight.shape[1], _VECTORS, 1, dtype=single.dtype, device=single.device)
    vectors = _iterated(single, start.view(-1, _VECTORS).expand(len(single), -1, -1), steps=10)
    best = (single @ vectors).norm(dim=1).amax(dim=1).topk(min(_CANDIDATES, len(single))).indices
    double = frequency_response(weight.double(), size).flatten(0, 2)[best]
    vectors = _iterated(double, vectors[best].to(double), steps=200)
    estimate: Tensor = (double @ vectors).norm(dim=1).max()
    return estimate.to(weight.dtype)


def _iterated(matrices: Tensor, vectors: Tensor, steps: int) -> Tensor:
    """Return the vectors (N, n, v) after some steps of power iteration with A^* A."""
    for _ in range(steps):
        vectors = F.normalize(matrices.mH @ (matrices @ vectors), dim=1, eps=torch.finfo(torch.float32).tiny)
    return vectors


class CPL(GradientStep):
    r"""Convex potential layer: x -> x - (2 / n^2) W^T relu(W x + b) with n >= ||W||, 1-Lipschitz.

    W is a convolution, the parameter ``weight``, and b is ``hidden_bias``. The layer is a gradient step on a convex
    function, short enough not to overshoot.

    - Evaluation: n is estimated from the weight alone, at 16 x 16 frequencies. It is enlarged by the factor by which
      the norm may exceed its values there (4 % for a 3 x 3 kernel), and by 1 %. Gradients treat it as ||W v|| with the
      stored vector v.
    - Training: n comes from one step of power iteration on the stored vector per change of the weight, enlarged as in
      evaluation. The vector of a frozen weight stays as it is, so that a resumed training computes the same.
    - No guarantee uses an estimate: `lipschitz_bound` is proven from the scaled kernel in both modes. It is
      max(1, 2 ||W||^2 / n^2 - 1), with a bound in place of ||W||: exactly 1 if n is large enough.
    - Each group has its own n.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, at most 15 x 15, padding ``"same"`` or its value, dilation 1, and the
            padding mode ``"zeros"`` or ``"circular"``. A stride is space-to-depth. Missing input channels are zeros,
            and surplus output channels are dropped, see `GradientStep`.
        hidden_channels: rows of W; max(in_channels * stride^2, out_channels) by default.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that the layer does not support, and for inputs of the wrong shape.

    Source: Meunier et al., "A dynamical system perspective for Lipschitz neural networks", ICML 2022
    (arXiv 2110.12690). The authors also estimate n by power iteration in evaluation.

    Example:
        >>> layer = CPL(8, 8).eval()
        >>> layer(torch.zeros(1, 8, 16, 16)).shape
        torch.Size([1, 8, 16, 16])
        >>> layer.lipschitz_bound()
        1.0
    """

    vector: Tensor
    # Version and address of the weight at the last step of power iteration.
    _stepped_at: tuple[int, ...] | None = None

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
        padding_mode: str = "zeros",
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **options
        )
        if max(self.kernel_size) >= _GRID:
            raise ValueError(f"kernel_size must be at most {_GRID - 1}, got {kernel_size}")
        rows, columns = (1 if k == 1 else max(_POINTS, k) for k in self.kernel_size)
        self.register_buffer("vector", self.weight.detach().new_empty(self.channels, rows, columns))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights as in Xavier's initialisation, and biases as ``nn.Conv2d`` does."""
        super().reset_parameters()
        with torch.no_grad():
            self.vector.copy_(self._start())
            for _ in range(20):
                self._advance()

    def weights(self) -> list[Tensor]:
        return [*super().weights(), self.vector]

    def operands_in_use(self, size: tuple[int, int]) -> Operands:
        if self.training and not is_frozen(self.weight):
            # Step only once per weight: recomputation and gradient accumulation must see one function.
            version = versions([self.weight])
            if version is None or version != self._stepped_at:
                self._advance()
                self._stepped_at = version
        return super().operands_in_use(size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stepped_at": None}  # addresses do not hold in a copy

    def scales(self, weight: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Return sqrt(2) / n for each row."""
        vector = others[0]
        images = same_convolution(vector[None], weight, self.groups, "circular")
        estimates = images.view(self.groups, -1).norm(dim=1).clamp_min(SMALLEST_NORM_OF_W)
        norms = estimates
        if not self.training:
            norms = norm_estimates(weight.detach(), self.groups).clamp_min(SMALLEST_NORM_OF_W)
            norms = norms * (estimates / estimates.detach())
        factors: Tensor = sqrt(2) / (_ROOM * room_beyond_grid(self.kernel_size, _GRID) * norms)
        return factors.repeat_interleave(self.hidden_channels // self.groups)

    def bound_kernel(self, kernel: Tensor) -> float:
        return kernel_norm_bound(kernel, self.groups, grid=_GRID)

    @torch.no_grad()
    def _advance(self) -> None:
        """Take a step of power iteration with W^T W on circular maps."""
        weight = self.weight.detach()
        images = same_convolution(self.vector[None], weight, self.groups, "circular")
        vector = same_convolution(images, adjoint_filter(weight, self.groups), self.groups, "circular")
        self.vector.copy_(self._normalized(vector) + _MIXED_IN * self._start())
        self.vector.copy_(self._normalized(self.vector))

    def _start(self) -> Tensor:
        """Return a fixed vector that is orthogonal to no simple pattern."""
        entries = torch.arange(self.vector.numel(), dtype=torch.float64, device=self.vector.device)
        return self._normalized((entries * 0.6180339887498949 % 1 - 0.4).to(self.vector.dtype))

    def _normalized(self, vector: Tensor) -> Tensor:
        """Divide by the norm of each group."""
        tiny = torch.finfo(vector.dtype).tiny
        return F.normalize(vector.reshape(self.groups, -1), dim=1, eps=tiny).view(self.vector.shape)
