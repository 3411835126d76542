"""The normalisation of pixels, as the first module of a network."""

from collections.abc import Sequence
from fractions import Fraction
from math import prod, sqrt
from struct import pack, unpack

import torch
from torch import Tensor

from lipnet.functional import round_up
from lipnet.functional.rounding_error import Signal, Step, elementwise, euclidean_norm, up
from lipnet.layers.base import LipschitzModule


class Normalize(LipschitzModule):
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
            raise ValueError(f"Normalize needs finite means and one finite std > 0, got {list(mean)}, {std}")
        self.image_size = image_size
        self.std: float = unpack("f", pack("f", std))[0]
        # A constant of the configuration, so not part of the state.
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:] if self.image_size is None else (self.image_size, self.image_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != (len(self.mean), *size):
            needed = f"(B, {len(self.mean)}, {', '.join(map(str, size)) if self.image_size else 'H, W'})"
            raise ValueError(f"images must have shape {needed}, got {tuple(x.shape)}")
        return (x - self.mean) / self.std

    def lipschitz_bound(self) -> float:
        """1 / std, rounded up."""
        return round_up(1 / Fraction(self.std))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """A subtraction and a division for each entry, the latter perhaps as a product with the rounded reciprocal.

        Of pixels in [0, 1] no difference from the mean exceeds max(|mean|, |1 - mean|), which bounds their norm.
        """
        gain, pixels = self.lipschitz_bound(), prod(signal.shape[1:])
        means = self.mean.detach().double()
        if signal.pixels:
            centred = euclidean_norm(torch.maximum(means.abs(), (1 - means).abs())) * sqrt(pixels)
        else:
            centred = signal.norm + euclidean_norm(means) * sqrt(pixels)
        # Of the computed inputs, which may be an error away from the exact ones.
        size = up(gain * (centred + signal.error))
        made = elementwise(signal._replace(norm=size, error=0.0), roundings=3)
        return Step(up(gain * centred), gain, made.error)

    def extra_repr(self) -> str:
        return f"mean={[round(value, 4) for value in self.mean.flatten().tolist()]}, std={self.std:.4f}"
