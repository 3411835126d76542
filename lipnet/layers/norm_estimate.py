"""Estimate of a kernel's norm, by one step of power iteration per training step."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lipnet.functional.kernel_norms import kernel_norm_estimate
from lipnet.layers.cache import is_frozen, versions
from lipnet.layers.originals import WatchedModule

_START_STEPS = 20
_EVALUATION_STEPS = 40


class NormEstimate(WatchedModule):
    """Lower estimate of the norm of a circular convolution, differentiable in the kernel.

    Training stores a vector, and advances it by one step of power iteration only if a parameter has changed, so that
    repeated calls compute the same function. The vector of frozen parameters stays as it is, so that a resumed training
    computes the same function, too. Evaluation needs no stored vector. No guarantee uses the estimate.

    Args:
        channels: channels of the convolution's input.
        groups: number of groups.
        points: height and width of the circular maps.
        device, dtype: of the vector.
    """

    vector: Tensor

    def __init__(
        self,
        channels: int,
        groups: int,
        points: tuple[int, int],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("vector", torch.zeros(1, channels, *points, device=device, dtype=dtype))
        # Versions of the parameters and the vector after the last step, and the vector that it used.
        self._last: tuple[tuple[int, ...], Tensor] | None = None

    def reset(self, kernel: Tensor) -> None:
        """Restart power iteration for another kernel."""
        if not kernel.is_meta:
            _, new = kernel_norm_estimate(kernel.detach(), torch.zeros_like(self.vector), self.groups, _START_STEPS)
            self.vector.copy_(new)

    def forward(self, kernel: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """Return the estimate of a training step, and advance the vector if a parameter has changed.

        Args:
            kernel: (c_out, c_in/groups, kh, kw), differentiable.
            parameters: tensors from which the kernel was computed.

        Returns:
            A scalar.
        """
        parameters = list(parameters)
        tensors = [*parameters, self.vector]
        before = versions(tensors)
        repeated = before is not None and self._last is not None and self._last[0] == before
        used = self._last[1] if repeated and self._last is not None else self.vector
        norm, new = kernel_norm_estimate(kernel, used, self.groups)
        if not repeated and not all(is_frozen(each) for each in parameters):
            kept = used.clone()
            with torch.no_grad():
                self.vector.copy_(new)
            after = versions(tensors)
            self._last = None if after is None else (after, kept)
        return norm

    def converged(self, kernel: Tensor) -> Tensor:
        """Return a vector (1, channels, *points), float64, that depends on this kernel alone."""
        # float32 takes half the time, and suffices because the vector only determines the scale.
        scaled = (kernel.detach() / kernel.detach().abs().max().clamp_min(1e-300)).float()
        start = torch.zeros_like(self.vector, dtype=torch.float32)
        return kernel_norm_estimate(scaled, start, self.groups, _EVALUATION_STEPS)[1].double()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # addresses do not hold in a copy
