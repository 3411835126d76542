"""The skew part of a filter, brought to a norm, with a backward pass of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipnet.functional.norm_estimates import circular_patches, next_vectors
from lipnet.functional.skew import minus_adjoint

# Norms below this count as this: such a filter is small enough, and dividing by its norm would be unstable.
SMALLEST_NORM = 1e-12


def scaled_skew_filter(weight: Tensor, vectors: Tensor, target: float, groups: int = 1) -> tuple[Tensor, Tensor]:
    """The skew part of a filter, each group's scaled by target / ||J v||: so that ||J|| is the target for a top v.

    Differentiable once, with v held fixed: a gradient G of the result gives (target / n) (G - <G, F> / target u v^T) to
    the skew part, where F is the result, n = ||J v|| and u = J v / n.

    Args:
        weight: any filter (c, c/groups, kh, kw) with odd kh and kw.
        vectors: v, maps (groups, c/groups, N, N) of norm 1, as in `jacobian_norm`.
        target: may be negative.
        groups: number of groups.

    Returns:
        The scaled skew filter, and u, with which to go on, detached.

    Example:
        >>> weight = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).view(2, 2, 1, 1)
        >>> scaled_skew_filter(weight, torch.tensor([0.6, 0.8]).view(1, 2, 1, 1), target=1.4)[0].flatten(1)
        tensor([[ 0.0000,  1.4000],
                [-1.4000,  0.0000]])
    """
    scaled: Tensor
    new: Tensor
    scaled, new, *_ = _ScaledSkewPart.apply(weight, vectors, target, groups)
    # Not every release's compiler sees that it is marked as not differentiable.
    return scaled, new.detach()


class _ScaledSkewPart(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, vectors: Tensor, target: float, groups: int) -> tuple[Tensor, ...]:
        # Twice the skew part: what is scaled afterwards need not be halved.
        doubled = minus_adjoint(weight, groups).reshape(*vectors.shape[:2], -1)
        images = doubled @ circular_patches(vectors, weight)
        norms = images.flatten(1).norm(dim=1)
        scale = target / norms.clamp_min(2 * SMALLEST_NORM)
        # Of a batch of vectors for one filter, the filter itself is no batch and cannot hold the results.
        batched = torch._C._are_functorch_transforms_active()
        multiply = torch.mul if batched else Tensor.mul_
        scaled = multiply(doubled, scale.view(-1, 1, 1)).view(weight.shape)
        return scaled, next_vectors(images, norms, vectors), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float, int], output: tuple[Tensor, ...]) -> None:
        scaled, new, scale = output
        _, vectors, ctx.target, ctx.groups = inputs
        ctx.mark_non_differentiable(new, scale)
        ctx.save_for_backward(scaled, vectors, new, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
        scaled, vectors, new, scale = ctx.saved_tensors
        rows = gradient.reshape(*new.shape[:2], -1)
        along = gradient.reshape(len(new), 1, -1) @ scaled.reshape(len(new), -1, 1)
        # Up to the smallest norm, where the scale is the largest but for rounding, it does not depend on the filter.
        moves = (scale.abs() < (1 - 1e-6) * abs(ctx.target) / (2 * SMALLEST_NORM)).view(-1, 1, 1)
        patches = circular_patches(vectors, scaled).mT
        result = torch.baddbmm(rows, along * moves * new.flatten(2), patches, alpha=-1 / ctx.target)
        result = result.mul_(scale.view(-1, 1, 1))
        return minus_adjoint(result.view(scaled.shape), ctx.groups, in_place=True), None, None, None
