"""Householder maps of the plane: continuous, and orthogonal in each of their sectors."""

from math import pi

import torch
from torch import Tensor


def fold(first: Tensor, second: Tensor, normal: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Reflect the points z = (first, second) with v.z <= 0 in the line v.z = 0; leave the others unchanged.

    The map is z - 2 min(v.z, 0) v: for a unit vector v, the reflection (I - 2 v v^T) z on one side of the line and z on
    the other. It is continuous for every v, with the Lipschitz constant max(1, |1 - 2 |v|^2|), so rounding v causes
    no jump.

    Args:
        first, second: the coordinates, tensors of the same shape.
        normal: the coordinates of v, broadcast against them.

    Returns:
        The coordinates of the images.

    Source: Singla, Singla & Feizi, ICLR 2022 (arXiv 2108.04062), the Householder activation of order 1.

    Example:
        >>> x, y = fold(torch.tensor([1.0, 1.0]), torch.tensor([2.0, -2.0]), (torch.tensor(0.0), torch.tensor(1.0)))
        >>> x.tolist(), y.tolist()
        ([1.0, 1.0], [2.0, 2.0])
    """
    overlap = 2 * (first * normal[0] + second * normal[1]).clamp(max=0)
    return first - overlap * normal[0], second - overlap * normal[1]


def four_sectors(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines, each (3, ...), of the three maps of `fold_sectors` that are not the identity.

    Sector 2 is reflected with the angle theta_0 + theta_1, sector 3 rotated by -theta_2, and sector 4 reflected with
    the angle theta_0. The reflection with an angle has the matrix [[cos, sin], [sin, -cos]].
    """
    start, first, second = _angles(theta)
    angles = torch.stack([start + first, second, start])
    return angles.cos(), angles.sin()


def fold_sectors(first: Tensor, second: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the Householder map of order 2: rotations and reflections alternate in four sectors of the plane.

    In polar coordinates, with the angle phi of z = (first, second) counted from theta_0 / 2, and a = theta_1 / 2,
    b = theta_2 / 2 in [0, pi]: the radius stays, and the angle becomes

        phi            for        0 <= phi < a          (the identity)
        2 a - phi      for        a <= phi < a + b      (a reflection)
        phi - 2 b      for    a + b <= phi < pi + b     (a rotation)
        -phi           for   pi + b <= phi < 2 pi       (a reflection)

    The pieces agree on the borders between sectors, so the map is continuous; every sector's matrix is orthogonal, so
    it is 1-Lipschitz. In floating-point arithmetic the pieces meet up to the rounding of the matrices, a few units in
    the last place of |z|.

    Args:
        first, second: the coordinates, tensors of the same shape.
        theta: (theta_0, theta_1, theta_2), shape (3, ...), broadcast against them; the last two are clamped to
            [0, 2 pi].

    Returns:
        The coordinates of the images.

    Source: Singla, Singla & Feizi, ICLR 2022 (arXiv 2108.04062), the Householder activation of order 2.

    Example:
        >>> turn = torch.tensor([0.0, torch.pi, torch.pi])  # quarters: kept, reflected, turned by -pi, reflected
        >>> x, y = fold_sectors(torch.tensor([1.0, -1.0, -1.0, 1.0]), torch.tensor([2.0, 2.0, -2.0, -2.0]), turn)
        >>> x.round().tolist(), y.round().tolist()
        ([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0])
    """
    start, first_width, second_width = _angles(theta)
    # The rays at which the sectors begin, and whether z lies within half a turn counterclockwise of each ray. No sector
    # is wider than that.
    rays = torch.stack([start, start + first_width, start + first_width + second_width, start + second_width + 2 * pi])
    past = [ray.cos() * second - ray.sin() * first >= 0 for ray in rays / 2]
    in_first, in_second, in_third = (past[k] & ~past[k + 1] for k in range(3))
    cosines, sines = four_sectors(theta)
    cosine = torch.where(in_second, cosines[0], torch.where(in_third, cosines[1], cosines[2]))
    cosine = torch.where(in_first, 1.0, cosine)
    sine = torch.where(in_second, sines[0], torch.where(in_third, sines[1], sines[2]))
    sine = torch.where(in_first, 0.0, sine)
    reflected = sine * first - cosine * second
    return cosine * first + sine * second, torch.where(in_first | in_third, -reflected, reflected)


def _angles(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    start, first, second = theta.unbind(0)
    return start, first.clamp(0, 2 * pi), second.clamp(0, 2 * pi)
