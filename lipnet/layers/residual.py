"""A skip connection around other modules."""

from math import isfinite

from torch import Tensor, nn


class Residual(nn.Module):
    """Weighted skip connection: skip x + branch f(x), for a body f that keeps the shape.

    The Lipschitz constant is at most |skip| + |branch| K, with the bound K of the body (see docs/notation.md). If
    |skip| + |branch| = 1, as by default, the block is 1-Lipschitz if the body is. It does not preserve norms: with an
    orthogonal body, it is a contraction.

    The body may work in place, as ``nn.ReLU(inplace=True)`` does: x is not read again once the body runs.

    Args:
        body: a module, or several in an ``nn.Sequential``.
        skip: weight of the input.
        branch: weight of the body's output.

    Raises:
        ValueError: for weights that are not finite; in the forward pass, if the body changes the shape.

    Example:
        >>> from lipnet.certify import lipschitz_bound
        >>> from lipnet.layers import SOC, MaxMin
        >>> block = Residual(nn.Sequential(SOC(8, 8), MaxMin()), skip=1.0, branch=0.5).eval()
        >>> round(lipschitz_bound(block), 12)
        1.5
    """

    def __init__(self, body: nn.Module, skip: float = 0.5, branch: float = 0.5) -> None:
        super().__init__()
        if not (isfinite(skip) and isfinite(branch)):
            raise ValueError(f"skip and branch must be finite numbers, got {skip} and {branch}")
        self.body, self.skip, self.branch = body, float(skip), float(branch)

    def forward(self, x: Tensor) -> Tensor:
        # Computed before the body runs, because the body may overwrite x.
        shortcut = x * self.skip
        branch: Tensor = self.body(x)
        if branch.shape != shortcut.shape:
            raise ValueError(
                f"Residual needs a body that keeps the shape, got {tuple(branch.shape)} for {tuple(shortcut.shape)}"
            )
        return shortcut + branch * self.branch

    def extra_repr(self) -> str:
        return f"skip={self.skip}, branch={self.branch}"
