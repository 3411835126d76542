"""How a skew filter is brought to its size: which norm of it is estimated, and what that is made to be.

Nothing that is guaranteed rests on these estimates: the bound is computed from the scaled filter afterwards.
"""

from abc import ABC, abstractmethod
from math import prod, sqrt

import torch
from torch import Tensor, nn

from lipnet.functional import (
    SMALLEST_NORM,
    jacobian_norm,
    power_iteration,
    reshaped_filters,
    scaled_skew_filter,
    skew_filter,
    start_vectors,
    top_vectors,
)

# Height and width of the maps on which ||J|| is estimated: their frequencies come within 1 / cos(pi / 8)^2 = 1.17 of
# the supremum over all maps for a 3 x 3 kernel, and typically within a few per cent.
_POINTS = 8
# Share of fixed vectors that is mixed into the stored ones: nothing can stay invisible to the estimate.
_MIXED_IN = 1e-3
_START_STEPS = 20
_CONVERGED_STEPS = 200


class Scaling(nn.Module, ABC):
    """A norm of each group's filter, and the value that it is brought to.

    The norm is evaluated at vectors that are held fixed. In training they are stored, and follow the filter by a step
    of power iteration a call; in evaluation they are found from the filter alone.

    Attributes:
        target: what the norm becomes.
        expected: what ||J|| is then expected not to exceed in training.
    """

    target: float
    expected: float

    @abstractmethod
    def evaluate(self, skew: Tensor, vectors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The norm of each group (groups,), differentiable in the filter, and the vectors a step on, detached."""

    @abstractmethod
    def converged(self, skew: Tensor) -> list[Tensor]:
        """Vectors for this filter that depend on nothing else."""

    def scaled(self, skew: Tensor, vectors: list[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        """The filter with its norm brought to the target, times a factor, and the vectors a step on."""
        norm, new = self.evaluate(skew, vectors)
        scale = self.target * factor / norm.clamp_min(SMALLEST_NORM)
        return (skew.reshape(len(scale), -1) * scale.unsqueeze(1).to(skew.dtype)).view_as(skew), new

    def scaled_skew(self, weight: Tensor, vectors: list[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        """The same for the skew part of any filter."""
        return self.scaled(skew_filter(weight, _groups(weight)), vectors, factor)

    def stored(self, groups: int) -> list[Tensor]:
        """The vectors of the first groups."""
        return [buffer[:groups] for buffer in self.buffers(recurse=False)]

    def store(self, vectors: list[Tensor]) -> None:
        """Keep vectors for the next step; groups that are left out keep theirs."""
        for buffer, new in zip(self.buffers(recurse=False), vectors, strict=True):
            buffer[: len(new)].copy_(new)

    def reset(self, skew: Tensor) -> None:
        """Start anew, for a new filter with all groups."""
        if skew.is_meta:  # nothing to start from, and nothing to find
            return
        with torch.no_grad():
            for buffer in self.buffers(recurse=False):
                nn.init.normal_(buffer)
            for _ in range(_START_STEPS):
                self.store(self.evaluate(skew, self.stored(_groups(skew)))[1])


class JacobianScaling(Scaling):
    """||J|| itself, estimated on small circular maps, becomes 1.4: about what the published scaling leads to."""

    target, expected = 1.4, 1.5
    vectors: Tensor

    def __init__(
        self,
        groups: int,
        channels: int,
        kernel_size: tuple[int, int],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.points = 1 if prod(kernel_size) == 1 else max(_POINTS, *kernel_size)
        shape = (groups, channels, self.points, self.points)
        self.register_buffer("vectors", torch.empty(shape, device=device, dtype=dtype))

    def evaluate(self, skew: Tensor, vectors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        norm, new = jacobian_norm(skew, self._mixed(vectors))
        return norm, [new]

    def scaled_skew(self, weight: Tensor, vectors: list[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        scaled, new = scaled_skew_filter(weight, self._mixed(vectors), self.target * factor, _groups(weight))
        return scaled, [new]

    @staticmethod
    def _mixed(vectors: list[Tensor]) -> Tensor:
        with torch.no_grad():
            groups, channels, points = vectors[0].shape[:3]
            # Vectors that are no numbers, as after a diverging step, must not stay so.
            own = vectors[0].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            mixed = torch.add(own, start_vectors(groups, channels, points, like=own), alpha=_MIXED_IN)
            lengths: Tensor = mixed.flatten(1).norm(dim=1)
            return mixed / lengths.view(-1, 1, 1, 1)

    def converged(self, skew: Tensor) -> list[Tensor]:
        return [top_vectors(skew, _groups(skew), self.points)]


class ReshapedScaling(Scaling):
    """As published: the smaller norm of two reshaped filters becomes 0.7 for a 3 x 3 kernel, so that ||J|| <= 2.1.

    In general 2.1 / sqrt(kh kw), and 1 for a 1 x 1 kernel. Source: Singla & Feizi, ICML 2021, code.
    """

    flat_vectors: Tensor
    blocked_vectors: Tensor

    def __init__(
        self,
        groups: int,
        channels: int,
        kernel_size: tuple[int, int],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        taps = prod(kernel_size)
        self.expected = 1.0 if taps == 1 else 2.1
        self.target = self.expected / sqrt(taps)
        # Right singular vectors of the reshaped filters.
        for name, length in (("flat_vectors", channels * taps), ("blocked_vectors", channels * kernel_size[1])):
            self.register_buffer(name, torch.empty(groups, length, device=device, dtype=dtype))

    def evaluate(self, skew: Tensor, vectors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        matrices = reshaped_filters(skew, _groups(skew))
        norms, new = zip(*(power_iteration(*both) for both in zip(matrices, vectors, strict=True)), strict=True)
        return torch.stack(norms).amin(dim=0), list(new)

    def converged(self, skew: Tensor) -> list[Tensor]:
        matrices = reshaped_filters(skew.detach(), _groups(skew))
        return [power_iteration(each, torch.ones_like(each[:, 0]), _CONVERGED_STEPS)[1] for each in matrices]


SCALINGS: dict[str, type[JacobianScaling | ReshapedScaling]] = {
    "jacobian": JacobianScaling,
    "reshaped": ReshapedScaling,
}


def _groups(skew: Tensor) -> int:
    return len(skew) // skew.shape[1]
