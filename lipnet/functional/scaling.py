"""Bringing a skew filter to a norm, with a backward pass of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipnet.functional.norms import circular_patches, next_vectors

# Norms below this count as this: such a filter is small enough, and dividing by its norm would be unstable.
SMALLEST_NORM = 1e-12


def scaled_to_norm(skew: Tensor, vectors: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """target / ||J v|| times each group's filter: ||J|| becomes the target if v is a top singular vector.

    Differentiable once, with v held fixed: a gradient G of the result gives (target / n) (G - <G, F> / target u v^T) to
    the filter, where F is the result, n = ||J v|| and u = J v / n.

    Args:
        skew: skew filter (c, c/groups, kh, kw).
        vectors: v, maps (groups, c/groups, N, N) of norm 1, as in `jacobian_norm`.
        target: may be negative.

    Returns:
        The scaled filter, and u, with which to go on, detached.
    """
    scaled: Tensor
    new: Tensor
    scaled, new, *_ = _ScaledToNorm.apply(skew, vectors, target)
    return scaled, new


class _ScaledToNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(skew: Tensor, vectors: Tensor, target: float) -> tuple[Tensor, ...]:
        groups, channels = vectors.shape[:2]
        patches = circular_patches(vectors, skew)
        images = skew.reshape(groups, channels, -1) @ patches
        norms = images.flatten(1).norm(dim=1)
        scale = target / norms.clamp_min(SMALLEST_NORM)
        scaled = (skew.reshape(groups, -1) * scale.unsqueeze(1)).view_as(skew)
        return scaled, next_vectors(images, norms, vectors), patches, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, ...]) -> None:
        scaled, new, patches, scale = output
        ctx.target = inputs[2]
        ctx.mark_non_differentiable(new, patches, scale)
        ctx.save_for_backward(scaled, new, patches, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        scaled, new, patches, scale = ctx.saved_tensors
        groups, channels = new.shape[:2]
        rows = gradient.reshape(groups, channels, -1)
        along = (rows.flatten(1).unsqueeze(1) @ scaled.reshape(groups, -1, 1)).view(-1, 1, 1)
        # Below the smallest norm the scale does not depend on the filter.
        moves = (scale.abs() * SMALLEST_NORM < abs(ctx.target)).view(-1, 1, 1)
        images = torch.where(moves, along * (-1 / ctx.target), 0.0) * new.flatten(2)
        result = torch.baddbmm(rows, images, patches.mT).mul_(scale.view(-1, 1, 1))
        return result.view_as(scaled), None, None
