"""The normalisation of pixels, as the first module of a network."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import prod, sqrt
from struct import pack, unpack

import torch
from torch import Tensor

from lipnet.functional import round_up
from lipnet.functional.rounding_error import Signal, Step, elementwise, euclidean_norm, up
from lipnet.layers.base import LipschitzModule


class Normalize(LipschitzModule):
    """Normalisation (x - mean) / std, with one standard deviation for all channels.

    As part of the model, it makes pixels in [0, 1] the unit of the model's inputs, and so of its certified radii. With
    one std, the Lipschitz constant is exactly 1 / std, without slack between channels. Mean and std are rounded to
    float32, so that the network is the same function in float32 and in float64.

    Args:
        mean: one number per channel.
        std: one positive number.
        image_size: height and width that images must have; None accepts any.

    Shape:
        (B, C, H, W) to the same shape.

    Raises:
        ValueError: unless std is one number > 0 and all numbers are finite; and for images of another shape.
    """

    mean: Tensor

    def __init__(self, mean: Sequence[float], std: float, image_size: int | None = None) -> None:
        super().__init__()
        if not isinstance(std, (int, float)):
            raise ValueError(
                f"std must be one number for all channels, got {std!r}: with one for each channel the Lipschitz "
                "constant would be 1 / min(std), and certified radii would lose the slack of the other channels"
            )
        float32 = torch.finfo(torch.float32)
        means = list(mean) if isinstance(mean, Iterable) else [mean]
        if not (float32.tiny <= std <= float32.max and all(abs(value) <= float32.max for value in means)):
            raise ValueError(f"Normalize needs finite means and one finite std > 0, got {means}, {std}")
        if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
            raise ValueError(f"image_size must be None or an integer of at least 1, got {image_size}")
        self.image_size = image_size
        self.std: float = unpack("f", pack("f", std))[0]
        # The mean comes from the configuration, so it is not part of the state.
        self.register_buffer("mean", torch.tensor(means, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:] if self.image_size is None else (self.image_size, self.image_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != (len(self.mean), *size):
            needed = f"(B, {len(self.mean)}, {', '.join(map(str, size)) if self.image_size else 'H, W'})"
            raise ValueError(f"images must have shape {needed}, got {tuple(x.shape)}")
        if self.mean.shape != (len(self.mean), 1, 1):
            # It would repeat the images, which enlarges their norm.
            raise ValueError(f"mean must have shape ({len(self.mean)}, 1, 1), got {tuple(self.mean.shape)}")
        return (x - self.mean) / self.std

    def lipschitz_bound(self) -> float:
        """Return 1 / std, rounded up."""
        return round_up(1 / Fraction(self.std))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of a subtraction and a division for each entry.

        The division may be a product with the rounded reciprocal. For pixels in [0, 1], no difference from the mean
        exceeds max(|mean|, |1 - mean|), which bounds the norm of the differences.
        """
        gain, pixels = self.lipschitz_bound(), prod(signal.shape[1:])
        means = self.mean.detach().double()
        if signal.pixels:
            centred = euclidean_norm(torch.maximum(means.abs(), (1 - means).abs())) * sqrt(pixels)
        else:
            centred = signal.norm + euclidean_norm(means) * sqrt(pixels)
        # A bound for the computed inputs, whose distance from the exact ones is at most the error.
        size = up(gain * (centred + signal.error))
        error = elementwise(signal._replace(norm=size, error=0.0), roundings=3).error
        return Step(up(gain * centred), gain, error)

    def extra_repr(self) -> str:
        return f"mean={[round(value, 4) for value in self.mean.flatten().tolist()]}, std={self.std:.4f}"
