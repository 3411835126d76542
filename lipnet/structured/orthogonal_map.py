"""A structured orthogonal matrix as a layer on channels."""

from torch import Tensor

from lipnet.functional.rounding_error import Signal, Step
from lipnet.layers.base import LipschitzModule, check_part
from lipnet.structured.orthogonal import StructuredOrthogonal


class OrthogonalMap(LipschitzModule):
    """A structured orthogonal matrix applied to channels: a 1 x 1 convolution of norm 1.

    As an adapter it keeps a network certified: it can stand anywhere between the layers of a 1-Lipschitz network,
    starts as the identity, and bounds itself.

    Args:
        matrix: Q, built by `oft`, `boft` or `gsoft`.

    Shape:
        (B, C, ...) to the same shape, where Q has C features: (B, C), (B, C, L), (B, C, H, W).

    Raises:
        ValueError: in the forward pass, for another number of channels.

    Example:
        >>> import torch
        >>> from lipnet.structured import gsoft
        >>> layer = OrthogonalMap(gsoft(16, block_size=4, dtype=torch.float64))
        >>> layer(torch.zeros(2, 16, 8, 8, dtype=torch.float64)).shape
        torch.Size([2, 16, 8, 8])
        >>> 1 <= layer.lipschitz_bound() <= 1 + 1e-12
        True
    """

    def __init__(self, matrix: StructuredOrthogonal) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.matrix.features:
            raise ValueError(
                f"OrthogonalMap needs an input of shape (B, {self.matrix.features}, ...), got {tuple(x.shape)}"
            )
        # One column for every pixel of every sample: a single product for each block.
        columns: Tensor = self.matrix(x.transpose(0, 1).flatten(1))
        return columns.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)

    def check(self) -> None:
        check_part("matrix", self.matrix, StructuredOrthogonal)
        self.matrix.check()

    def lipschitz_bound(self) -> float:
        """Bound ||Q|| from the blocks after rounding, see `StructuredOrthogonal.lipschitz_bound`."""
        return self.matrix.lipschitz_bound()

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of the products with the factors' blocks, see `StructuredOrthogonal.rounding_step`."""
        return self.matrix.rounding_step(signal)
