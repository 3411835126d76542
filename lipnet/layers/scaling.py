"""The scale s of the filter L = s (M - T(M)) / 2: it brings an estimated norm of the skew filter to a target value.

No guarantee uses the estimate: bounds are computed from the scaled filter afterwards. docs/notation.md defines the
symbols.
"""

from abc import ABC, abstractmethod
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.types import Device

from lipnet.functional import skew_filter
from lipnet.functional.norm_estimates import (
    circular_patches,
    jacobian_norm,
    next_vectors,
    refined_vectors,
    start_vectors,
    top_vectors,
)
from lipnet.functional.skew import minus_adjoint
from lipnet.layers.cache import versions
from lipnet.layers.engines.prepared import expected_norm_bound
from lipnet.layers.originals import WatchedModule

# Smaller norms count as this one, because dividing by them would be unstable.
SMALLEST_NORM = 1e-12
# Height and width of the maps on which ||J|| is estimated. For a 3 x 3 kernel their frequencies come within
# 1 / cos(pi / 8)^2 = 1.17 of the supremum over all maps, and typically within a few per cent.
_POINTS = 8
# Share of a fixed vector that is mixed into each stored one, so that no direction stays invisible to the estimate.
_MIXED_IN = 1e-3
_START_STEPS = 20


def scaled_skew_filter(weight: Tensor, vectors: Tensor, target: float, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Scale the skew part of a filter, each group by target / ||J v||, and take a step of power iteration.

    If v is a top singular vector, the norm ||J|| becomes the target. The result F is differentiable once, with v held
    fixed. With n = ||J v|| and u = J v / n, a gradient G of F gives the skew part the gradient
    (target / n) (G - <G, F> / target u v^T).

    Args:
        weight: any filter (c, c/groups, kh, kw) with odd kh and kw.
        vectors: v, maps (groups, c/groups, N, N) of norm 1, as in `jacobian_norm`.
        target: may be negative.
        groups: number of groups.

    Returns:
        The filter F, in the shape of the weight, and the next vectors u, detached, in the shape of v.

    Example:
        >>> weight = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).view(2, 2, 1, 1)
        >>> scaled_skew_filter(weight, torch.tensor([0.6, 0.8]).view(1, 2, 1, 1), target=1.4)[0].flatten(1)
        tensor([[ 0.0000,  1.4000],
                [-1.4000,  0.0000]])
    """
    scaled, new = _ScaledSkewPart.apply(weight, vectors, target, groups)
    # The compilers of some torch releases ignore `mark_non_differentiable`.
    return scaled, new.detach()


class _ScaledSkewPart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, vectors: Tensor, target: float, groups: int) -> tuple[Tensor, Tensor]:
        # Twice the skew part: halving it would be undone by the scale.
        doubled = minus_adjoint(weight, groups).reshape(*vectors.shape[:2], -1)
        images = doubled @ circular_patches(vectors, weight)
        norms = images.flatten(1).norm(dim=1)
        scale = target / norms.clamp_min(2 * SMALLEST_NORM)
        scaled = doubled.mul_(scale.view(-1, 1, 1)).view(weight.shape)
        new = next_vectors(images, norms, vectors)
        ctx.target, ctx.groups = target, groups
        ctx.mark_non_differentiable(new)
        ctx.save_for_backward(scaled, vectors, new, scale)
        return scaled, new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
        scaled, vectors, new, scale = ctx.saved_tensors
        rows = gradient.reshape(*new.shape[:2], -1)
        along = torch.linalg.vecdot(gradient.reshape(len(new), -1), scaled.reshape(len(new), -1)).view(-1, 1, 1)
        # For norms below the smallest one, the scale is constant, at its maximum up to rounding.
        moves = (scale.abs() < (1 - 1e-6) * abs(ctx.target) / (2 * SMALLEST_NORM)).view(-1, 1, 1)
        patches = circular_patches(vectors, scaled).mT
        result = torch.baddbmm(rows, along * moves * new.flatten(2), patches, alpha=-1 / ctx.target)
        result = result.mul_(scale.view(-1, 1, 1))
        return minus_adjoint(result.view(scaled.shape), ctx.groups, in_place=True), None, None, None


class Scaling(WatchedModule, ABC):
    """A norm of each group's skew filter, and the target value to which the filter is scaled.

    The norm is evaluated at vectors that are held fixed for the gradient. Training stores them, and advances them by
    one step of power iteration only if the weight is not frozen and has changed. Evaluation computes them from the
    filter alone.

    Attributes:
        target: value of the norm after scaling.
        expected: largest ||J|| to expect after scaling in training; the polynomial of training is made for it.
        interval: the same for evaluation.
    """

    target: float
    expected: float
    interval: float
    # Versions of weight and buffers after the last step, and the vectors that it used.
    _last: tuple[tuple[int, ...], list[Tensor]] | None = None

    def settings(self) -> tuple[float, ...]:
        """Return the numbers that the scaled filter of an evaluation depends on."""
        return self.target, self.interval

    @abstractmethod
    def evaluate(self, skew: Tensor, vectors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the norm of each group (groups,), differentiable in the filter, and the advanced vectors, detached."""

    @abstractmethod
    def converged(self, skew: Tensor) -> list[Tensor]:
        """Return vectors for this filter that depend on the filter alone."""

    @abstractmethod
    def refined(self, skew: Tensor, vectors: list[Tensor]) -> list[Tensor]:
        """Return vectors closer to `converged`, at a fraction of its cost."""

    def scaled(self, skew: Tensor, vectors: list[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        """Return a skew filter scaled to ``factor`` times the target, and the advanced vectors."""
        norm, new = self.evaluate(skew, vectors)
        scale = self.target * factor / norm.clamp_min(SMALLEST_NORM)
        return (skew.reshape(len(scale), -1) * scale.unsqueeze(1).to(skew.dtype)).view_as(skew), new

    def scaled_skew(self, weight: Tensor, vectors: list[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        """Return `scaled` of the skew part of any filter, and the advanced vectors."""
        return self.scaled(skew_filter(weight, count_groups(weight)), vectors, factor)

    def training_step(self, weight: Tensor, factor: float, frozen: bool) -> Tensor:
        """Return the scaled skew filter of a training step, and advance the vectors if the weight has changed.

        A repeated call on the same weight returns the same filter, so that recomputation (`torch.utils.checkpoint`),
        gradient accumulation and line searches see one function. Version counters show whether the weight has changed.
        Reading them does not wait for an accelerator, but they miss writes through ``.data``.

        The vectors of a frozen weight stay as they are. Otherwise a resumed training would advance them, because
        counters do not hold in another process.
        """
        vectors = self.current(weight)
        scaled, new = self.scaled_skew(weight, vectors, factor)
        if frozen:
            return scaled
        state = self._state(weight)
        if state is None:
            self.store(new)
        elif self._last is None or self._last[0] != state:
            used = [each.clone() for each in vectors]
            self.store(new)
            state = self._state(weight)
            assert state is not None
            self._last = state, used
        return scaled

    def current(self, weight: Tensor) -> list[Tensor]:
        """Return the vectors for this weight: the last step's if nothing has changed since, else the stored ones."""
        stored = self.stored(count_groups(weight))
        state = self._state(weight)
        if state is None or self._last is None or self._last[0] != state:
            return stored
        # The last step may have used the first groups alone.
        return [
            torch.cat((used[: len(each)], each[len(used) :])) for used, each in zip(self._last[1], stored, strict=True)
        ]

    def _state(self, weight: Tensor) -> tuple[int, ...] | None:
        """Return the versions of weight and buffers, see `lipnet.layers.cache.versions`."""
        return versions([weight, *self.buffers(recurse=False)])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # addresses do not hold in a copy

    def stored(self, groups: int) -> list[Tensor]:
        """Return the stored vectors of the first ``groups`` groups."""
        return [buffer[:groups] for buffer in self.buffers(recurse=False)]

    def store(self, vectors: list[Tensor]) -> None:
        """Store vectors of the first groups for the next step."""
        for buffer, new in zip(self.buffers(recurse=False), vectors, strict=True):
            buffer[: len(new)].copy_(new)

    def reset(self, skew: Tensor) -> None:
        """Restart power iteration for a new filter with all groups."""
        if skew.is_meta:
            return
        with torch.no_grad():
            for buffer in self.buffers(recurse=False):
                nn.init.normal_(buffer)
            for _ in range(_START_STEPS):
                self.store(self.evaluate(skew, self.stored(count_groups(skew)))[1])


class JacobianScaling(Scaling):
    """Scaling that brings ||J||, estimated on small circular maps, to 1.4: about as large as by `ReshapedScaling`."""

    target, expected = 1.4, 1.5
    vectors: Tensor

    def __init__(
        self, groups: int, channels: int, kernel_size: tuple[int, int], device: Device, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.points = 1 if prod(kernel_size) == 1 else max(_POINTS, *kernel_size)
        self.interval = expected_norm_bound(self.target, channels, kernel_size)
        shape = (groups, channels, self.points, self.points)
        self.register_buffer("vectors", torch.empty(shape, device=device, dtype=dtype))

    def settings(self) -> tuple[float, ...]:
        return *super().settings(), self.points

    def evaluate(self, skew: Tensor, vectors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        norm, new = jacobian_norm(skew, self._mixed(vectors))
        return norm, [new]

    def scaled_skew(self, weight: Tensor, vectors: list[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            # torch.func has no rules for an autograd.Function of this form.
            return super().scaled_skew(weight, vectors, factor)
        scaled, new = scaled_skew_filter(weight, self._mixed(vectors), self.target * factor, count_groups(weight))
        return scaled, [new]

    @staticmethod
    def _mixed(vectors: list[Tensor]) -> Tensor:
        with torch.no_grad():
            groups, channels, points = vectors[0].shape[:3]
            # A diverging step leaves vectors that are not finite, and later steps must recover from them.
            own = vectors[0].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            mixed = torch.add(own, start_vectors(groups, channels, points, like=own), alpha=_MIXED_IN)
            lengths: Tensor = mixed.flatten(1).norm(dim=1)
            return mixed / lengths.view(-1, 1, 1, 1)

    def converged(self, skew: Tensor) -> list[Tensor]:
        return [top_vectors(skew, count_groups(skew), self.points)]

    def refined(self, skew: Tensor, vectors: list[Tensor]) -> list[Tensor]:
        return [refined_vectors(skew, count_groups(skew), self._mixed(vectors))]


def count_groups(weight: Tensor) -> int:
    """Return the number of groups of a filter (c, c/groups, kh, kw)."""
    return len(weight) // weight.shape[1]
