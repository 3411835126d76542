"""Projection onto an L2 ball within the pixel box, and distances rounded up."""

import torch
from torch import Tensor

# Bisection steps for the projection's scale: its relative error is 2^-40.
_HALVINGS = 40


def lengths(offsets: Tensor) -> Tensor:
    """Return the Euclidean length of each sample of (B, C, H, W), shape (B, 1, 1, 1)."""
    norms: Tensor = offsets.flatten(1).norm(dim=1)
    return norms.view(-1, 1, 1, 1)


def unit(offsets: Tensor) -> Tensor:
    """Divide each sample of (B, C, H, W) by its length; zero or non-finite samples become zero."""
    size = lengths(offsets)
    usable = size.isfinite() & (size > 0)
    return torch.where(usable, offsets / torch.where(usable, size, 1.0), 0.0)


def project(images: Tensor, offsets: Tensor, epsilon: Tensor) -> Tensor:
    """Return the nearest offsets of length at most epsilon that keep images + offsets within [0, 1].

    The minimum of ||d - d0||^2 over the ball and the box together is d = clip(s d0), with one scale s in (0, 1] for
    each image. The length of d grows with s, so bisection finds s, from below.

    Args:
        images: (B, C, H, W), pixels in [0, 1].
        offsets: d0, of the same shape.
        epsilon: radii, (B,), >= 0.
    """
    size = epsilon.view(-1, 1, 1, 1).to(offsets)
    clipped = _clip(images, offsets)
    inside = lengths(clipped) <= size
    low, high = torch.zeros_like(size), torch.ones_like(size)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = lengths(_clip(images, middle * offsets)) <= size
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.where(inside, clipped, _clip(images, low * offsets))


def _clip(images: Tensor, offsets: Tensor) -> Tensor:
    return offsets.clamp(-images, 1 - images)


def distances_up(images: Tensor, others: Tensor) -> Tensor:
    """Return the L2 distances between images and others, both (B, C, H, W), float64 (B,), rounded up."""
    offsets = (others.double() - images.double()).flatten(1)
    # A difference, a square, a sum of n squares and a root: a relative error of less than n + 4 roundings.
    rounding = 1 + (offsets.shape[1] + 4) * torch.finfo(torch.float64).eps
    # Differences below about 1e-154 are lost, because their squares underflow.
    norms: Tensor = offsets.norm(dim=1)
    return (norms * rounding).clamp_min(1e-150)
