"""1-Lipschitz pooling: the norm of each window."""

from math import sqrt

import torch
from torch import Tensor

from lipnet.functional.rounding_error import Signal, Step, elementwise, exact, up
from lipnet.layers.base import LipschitzModule


class NormPool2d(LipschitzModule):
    """L2-norm pooling: the Euclidean norm of each channel over windows that do not overlap.

    y[c, u, v] = ||x[c, window(u, v)]||. A norm changes by at most the norm of the change, and each pixel is in one
    window, so ||y - y'|| <= ||x - x'||: 1-Lipschitz. Average pooling of k x k windows would be 1/k-Lipschitz, and lose
    that factor. The gradient keeps its norm where a window is not zero, and is 0 at a zero window.

    Args:
        kernel_size: height and width of a window, and the step from one to the next.

    Shape:
        (B, C, H, W) to (B, C, H / kernel_size, W / kernel_size).

    Raises:
        ValueError: unless kernel_size is an integer of at least 1; and for inputs that the windows do not divide.

    Example:
        >>> NormPool2d(2)(torch.tensor([[[[3.0, 0.0], [4.0, 0.0]]]])).tolist()
        [[[[5.0]]]]
    """

    def __init__(self, kernel_size: int = 2) -> None:
        super().__init__()
        if not isinstance(kernel_size, int) or kernel_size < 1:
            raise ValueError(f"kernel_size must be an integer of at least 1, got {kernel_size}")
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        size = self.kernel_size
        if x.dim() != 4 or x.shape[2] % size or x.shape[3] % size:
            raise ValueError(
                f"NormPool2d needs an input (B, C, H, W) that windows of {size} x {size} divide, got {tuple(x.shape)}"
            )
        height, width = x.shape[2] // size, x.shape[3] // size
        windows = x.reshape(*x.shape[:2], height, size, width, size)
        pooled: Tensor = torch.linalg.vector_norm(windows, dim=(3, 5))
        return pooled

    def lipschitz_bound(self) -> float:
        """Return 1, by the triangle inequality in each window."""
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of a sum of k^2 squares and a root for each window.

        Squares of entries below 1e-154 may underflow: the norm of such a window is off by 2^-511 k at most.
        """
        error = elementwise(signal, roundings=self.kernel_size**2 + 2).error
        return exact(signal)._replace(error=up(error + 2.0**-511 * sqrt(signal.entries)))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}"
