"""The average over an image and its mirror image, as one module."""

import torch
from torch import Tensor, nn


class MirrorAverage(nn.Module):
    """Average of a body's results for the maps and for their mirror images, left to right: (f(x) + f(mirror x)) / 2.

    The results no longer depend on which of the two images is given. The Lipschitz bound is that of the body, because
    the mirror image of a difference has the same norm. In evaluation the body runs once, on a batch of twice the size.

    In training mode, only f(x) is computed: the body sees mirror images by random flips of the data.

    Args:
        body: a module, or several in an ``nn.Sequential``.

    Shape:
        (B, C, H, W) to the shape of the body's results.

    Raises:
        ValueError: in the forward pass, for an input of another shape, or if the body changes the number of images.

    Example:
        >>> from lipnet.layers import SOC
        >>> layer, maps = MirrorAverage(SOC(2, 2)).eval(), torch.randn(1, 2, 4, 4)
        >>> torch.allclose(layer(maps), layer(maps.flip(-1)))
        True
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"MirrorAverage needs maps of shape (B, C, H, W), got {tuple(x.shape)}")
        if self.training:
            return self.body(x)  # type: ignore[no-any-return]
        results: Tensor = self.body(torch.cat([x, x.flip(-1)]))
        images = x.shape[0]
        if results.shape[0] != 2 * images:
            raise ValueError(
                f"MirrorAverage needs a body that keeps the number of images, got {results.shape[0]} for {2 * images}"
            )
        return (results[:images] + results[images:]) / 2
