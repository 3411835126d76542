"""Householder activations: learned maps of pairs of channels that keep the norm of the gradient."""

from abc import ABC, abstractmethod
from fractions import Fraction
from math import ceil, inf, pi
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.types import Device

from lipnet.functional import round_up, square_root_up
from lipnet.functional.householder import fold, fold_sectors, four_sectors
from lipnet.functional.rounding import to_float64
from lipnet.functional.rounding_error import ELEMENTARY, Signal, Step, elementwise
from lipnet.layers.arguments import check_weight
from lipnet.layers.base import LipschitzModule

# For angles nearer to 0 or 2 pi, the rounding at the borders of the sectors has no bound.
_NARROWEST = 1e-9


class _PairActivation(LipschitzModule, ABC):
    """A map of the plane with learned angles, applied to each pair of channels of a tensor (B, channels, ...)."""

    # Shape of the angles of one pair.
    _angles: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self, channels: int, *, neighbours: bool = False, device: Device = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if not isinstance(channels, int) or channels < 2 or channels % 2:
            raise ValueError(f"{type(self).__name__} needs an even number of channels, got {channels}")
        self.channels, self.neighbours = channels, neighbours
        self.theta = nn.Parameter(torch.empty(*self._angles, channels // 2, device=device, dtype=dtype))
        self.reset_parameters()

    @abstractmethod
    def reset_parameters(self) -> None:
        """Set the angles to their initial values."""

    @abstractmethod
    def _map(self, first: Tensor, second: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Map the pairs (first, second), each (B, C/2, ...), with the angles (C/2, ...) or (3, C/2, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"{type(self).__name__} needs an input of shape (B, {self.channels}, ...), got {tuple(x.shape)}"
            )
        self.check()
        half = self.channels // 2
        shape, dim = ((half, 2), 2) if self.neighbours else ((2, half), 1)
        first, second = x.reshape(x.shape[0], *shape, *x.shape[2:]).unbind(dim)
        theta = self.theta.reshape(*self.theta.shape, *[1] * (x.dim() - 2))
        return torch.stack(self._map(first, second, theta), dim).flatten(1, 2)

    def check(self) -> None:
        check_weight("theta", self.theta, (*self._angles, self.channels // 2))

    def extra_repr(self) -> str:
        return f"{self.channels}" + (", neighbours=True" if self.neighbours else "")


class Householder(_PairActivation):
    r"""Householder activation of order 1: reflects the pairs on one side of a line through the origin.

    A pair z of channels stays z where :math:`v^T z > 0`, and becomes :math:`(I - 2 v v^T) z` elsewhere, with
    :math:`v = (\sin(\theta / 2), -\cos(\theta / 2))` and a learned angle theta for each pair. It starts at
    theta = pi / 2, where it is `MaxMin`: (max, min).

    The published SOC code keeps z on the other side, where :math:`v^T z \le 0`, and so starts as (min, max). Adding
    2 pi to theta turns v into -v and exchanges the sides. To import published angles of shape (1, channels / 2, 1, 1)::

        activation.theta.copy_(published.theta.flatten() + 2 * pi)

    Args:
        channels: number of channels.
        neighbours: pair the channels 2i and 2i + 1, as `MaxMinPermuted` does; paired shuffles keep them together.
            Otherwise pair i and i + channels / 2, as `MaxMin` does.
        device, dtype: of the angles.

    Shape:
        (B, channels, ...) to the same shape.

    Raises:
        ValueError: for an odd number of channels, and for inputs of another shape.

    Source: Singla, Singla & Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", ICLR 2022
    (arXiv 2108.04062).

    Example:
        >>> activation = Householder(4)
        >>> [round(value, 4) for value in activation(torch.tensor([[1.0, 2.0, 3.0, 0.0]]))[0].tolist()]
        [3.0, 2.0, 1.0, 0.0]
    """

    def reset_parameters(self) -> None:
        """Set every angle to pi / 2, which is `MaxMin`."""
        nn.init.constant_(self.theta, pi / 2)

    def _map(self, first: Tensor, second: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        sine, cosine = _normal(theta)
        return fold(first, second, (sine.to(first.dtype), cosine.to(first.dtype)))

    def lipschitz_bound(self) -> float:
        """Return max(1, 2 |v|^2 - 1), rounded up, for the computed normals v: 1 up to their rounding."""
        squared = _largest_squared_norm(*_normal(self.theta))
        return inf if squared is None else max(1.0, round_up(2 * squared - 1))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of v.z, of its product with v, and of the difference from z: below 10 u |z| in total.

        With |v| = 1: gamma_2 |z| for v.z, doubled by the factor 2; u times 2 |v.z| for the product; u |z| for the
        difference. docs/notation.md defines u and gamma_n.
        """
        return elementwise(signal, roundings=10, gain=self.lipschitz_bound())


class HouseholderOrder2(_PairActivation):
    """Householder activation of order 2: rotations and reflections alternate in four sectors of each pair's plane.

    The map is `lipnet.functional.householder.fold_sectors`, with three learned angles for each pair: twice the start of
    the first sector, and twice the widths of the first and of the second. With theta_1 = 2 pi it is an activation of
    order 1. The angles are drawn uniformly from [0, pi], as in the published code.

    Args:
        channels, neighbours, device, dtype: as in `Householder`.

    Shape:
        (B, channels, ...) to the same shape.

    Raises:
        ValueError: for an odd number of channels, and for inputs of another shape.

    Source: Singla, Singla & Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", ICLR 2022
    (arXiv 2108.04062).

    Example:
        >>> activation = HouseholderOrder2(4)
        >>> x = torch.randn(3, 4, 8, 8)
        >>> torch.allclose(activation(x).norm(), x.norm())
        True
    """

    _angles = (3,)

    def reset_parameters(self) -> None:
        """Draw all angles uniformly from [0, pi]."""
        nn.init.uniform_(self.theta, 0, pi)

    def _map(self, first: Tensor, second: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        images = fold_sectors(first, second, theta)
        return images[0].to(first.dtype), images[1].to(first.dtype)

    def lipschitz_bound(self) -> float:
        """Return the largest norm of the computed matrices of the sectors, rounded up: 1 up to their rounding.

        Rounding leaves a small jump between neighbouring sectors, which `rounding_step` covers.
        """
        squared = _largest_squared_norm(*four_sectors(self.theta))
        return inf if squared is None else max(1.0, square_root_up(squared))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the distance from the exact map of the stored angles, whose sectors meet exactly.

        In units u (docs/notation.md), each ray's angle is off by 2 (|theta_0| + 6 pi), its cosine and sine by the error
        of an elementary function, and the test on which side of the ray z lies by three more. A point on the wrong side
        of a ray, at an angle e from it, moves by at most 2 e |z|, since the maps of both sides agree on the ray. At
        most three rays are near. The sector's own matrix and the product with it need fewer units than that.

        Raises:
            ValueError: for angles theta_1 and theta_2 in (0, 1e-9), and theta_2 within 1e-9 of 2 pi. There the tests of
                two rays may contradict each other and choose a sector whose map differs from the right one.
        """
        theta = self.theta.detach().double()
        if not bool(theta.isfinite().all()):
            return Step(inf, inf, inf)
        narrow = ((theta[1:] > 0) & (theta[1:] < _NARROWEST)).any()
        if bool(narrow) or bool((theta[2] > 2 * pi - _NARROWEST).any()):
            raise ValueError(
                f"HouseholderOrder2 has an angle theta_1 or theta_2 in (0, {_NARROWEST}), or theta_2 within "
                f"{_NARROWEST} of 2 pi: the rounding of its sectors' borders has no bound; set it to 0, or farther away"
            )
        rays = 2 * (float(theta[0].abs().max()) + 6 * pi) + ELEMENTARY * 2 + 3
        return elementwise(signal, roundings=ceil(7 * rays) + 4, gain=self.lipschitz_bound())


def _normal(theta: Tensor) -> tuple[Tensor, Tensor]:
    return (theta / 2).sin(), -(theta / 2).cos()


def _largest_squared_norm(first: Tensor, second: Tensor) -> Fraction | None:
    """Return the exact maximum of first^2 + second^2, or None if a number is not finite."""
    coordinates = to_float64(torch.stack([first, second]).detach()).flatten(1)
    if not bool(coordinates.isfinite().all()):
        return None
    return max(Fraction(a) ** 2 + Fraction(b) ** 2 for a, b in zip(*coordinates.tolist(), strict=True))
