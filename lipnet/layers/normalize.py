"""The normalisation of pixels, as the first module of a network."""

from collections.abc import Sequence
from fractions import Fraction
from struct import pack, unpack

import torch
from torch import Tensor, nn

from lipnet.functional import round_up


class Normalize(nn.Module):
    """(x - mean) / std, with one standard deviation for all channels.

    Inside the model, so that its inputs, and with them its certified radii, are pixels in [0, 1]. With one std the
    Lipschitz constant is exactly 1 / std, and no slack is lost between channels. Both constants are rounded to float32,
    so that the network is the same function in float32 and in float64.

    Args:
        mean: one number per channel.
        std: one positive number.
        image_size: the height and width that images must have; None takes any.

    Shape:
        (B, C, H, W) to the same shape.

    Raises:
        ValueError: unless std > 0 and both are finite; and for images of another shape.
    """

    mean: Tensor

    def __init__(self, mean: Sequence[float], std: float, image_size: int | None = None) -> None:
        super().__init__()
        float32 = torch.finfo(torch.float32)
        if not (float32.tiny <= std <= float32.max and all(abs(value) <= float32.max for value in mean)):
            raise ValueError(f"Normalize needs finite means and one finite std > 0, received {list(mean)}, {std}")
        self.image_size = image_size
        self.std: float = unpack("f", pack("f", std))[0]
        # A constant of the configuration, so not part of the state.
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:] if self.image_size is None else (self.image_size, self.image_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != (len(self.mean), *size):
            needed = f"(B, {len(self.mean)}, {', '.join(map(str, size)) if self.image_size else 'H, W'})"
            raise ValueError(f"images must have shape {needed}, received {tuple(x.shape)}")
        return (x - self.mean) / self.std

    def lipschitz_bound(self) -> float:
        """1 / std, rounded up."""
        return round_up(1 / Fraction(self.std))

    def extra_repr(self) -> str:
        return f"mean={[round(value, 4) for value in self.mean.flatten().tolist()]}, std={self.std:.4f}"
