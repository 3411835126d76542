"""The published scaling of SOC, by the norm of a reshaped filter."""

from math import frexp, prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from lipnet.functional.norm_bounds import reshaped_filters
from lipnet.functional.norm_estimates import power_iteration
from lipnet.layers.scaling import Scaling, count_groups

_REFINING_STEPS = 8


class ReshapedScaling(Scaling):
    """Scaling that brings the smaller norm of two reshaped filters to 0.7 for a 3 x 3 kernel, so that ||J|| <= 2.1.

    In general, the target is 2.1 / sqrt(kh kw), and 1 for a 1 x 1 kernel.

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021, the published code.
    """

    flat_vectors: Tensor
    blocked_vectors: Tensor

    def __init__(
        self, groups: int, channels: int, kernel_size: tuple[int, int], device: Device, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        taps = prod(kernel_size)
        self.expected = 1.0 if taps == 1 else 2.1
        self.target = self.expected / sqrt(taps)
        # In evaluation, the norm of the reshaped filter is exact up to rounding.
        self.interval = self.expected * (1 + 1e-6)
        # Right singular vectors of the reshaped filters.
        for name, length in (("flat_vectors", channels * taps), ("blocked_vectors", channels * kernel_size[1])):
            self.register_buffer(name, torch.empty(groups, length, device=device, dtype=dtype))

    def evaluate(self, skew: Tensor, vectors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        matrices = reshaped_filters(skew, count_groups(skew))
        norms, new = zip(*(power_iteration(*both) for both in zip(matrices, vectors, strict=True)), strict=True)
        return torch.stack(norms).amin(dim=0), list(new)

    def converged(self, skew: Tensor) -> list[Tensor]:
        return [_top_right_vectors(each) for each in reshaped_filters(skew.detach(), count_groups(skew))]

    def refined(self, skew: Tensor, vectors: list[Tensor]) -> list[Tensor]:
        for _ in range(_REFINING_STEPS):
            vectors = self.evaluate(skew, vectors)[1]
        return vectors


def _top_right_vectors(matrices: Tensor) -> Tensor:
    """Return the top right singular vectors (g, n) of matrices A (g, m, n), m <= n, by the eigenvectors of A A^T.

    Power iteration would need more steps than any fixed number where two singular values are close.
    """
    # eigh raises an error for matrices that are not finite. Their norm is not finite for any vectors.
    finite = matrices.nan_to_num(0.0, 0.0, 0.0)
    # A power of two, which leaves the vectors alone, keeps A A^T within the range of the dtype.
    limit = frexp(torch.finfo(finite.dtype).max)[1] - 2
    exponents = torch.frexp(finite.abs().amax(dim=(-2, -1), keepdim=True)).exponent
    finite = torch.ldexp(finite, -exponents.clamp(-limit, limit))
    left = torch.linalg.eigh(finite @ finite.mT).eigenvectors[..., -1:]
    return F.normalize((left.mT @ finite).squeeze(-2), dim=-1, eps=torch.finfo(finite.dtype).tiny)
