"""The choice of an engine, as a pure function of the situation.

| kernel | padding | training | evaluation |
| --- | --- | --- | --- |
| 1 x 1 | any | dense on many pixels, series on few | dense up to 1024 channels in a group, else series |
| larger | zeros | series | dense on small maps, else series |
| larger | circular | the cheaper of spectral and series; series below 16 pixels | dense on small maps, else spectral |

- Evaluation computes matrices once and caches them, so they may cost more than in training, where the weight changes
  with every step. For the dense engine, maps are small if they have few entries in a group, channels x height x width:
  that is the size of its matrix.
- ``engine="series"``, ``"spectral"`` or ``"dense"`` overrules the table. Spectral with zero padding is an error, unless
  the kernel is 1 x 1.
- Certificates use the same engines, with explicit sums of products in place of Fourier transforms.
- Under autocast, feature maps are multiplied in its dtype: in training, and by the series also in evaluation.
"""

from typing import NamedTuple

import torch

from lipnet.functional.exponential import products_of_a_polynomial

ENGINES = ("auto", "series", "spectral", "dense")

# Evaluation caches a dense matrix if maps have at most this many entries in a group. The limit is higher for few
# pixels, where a matrix saves most. Beyond it, computing the matrix costs more than it saves on ten thousand images.
_DENSE_ENTRIES = 512
_DENSE_ENTRIES_OF_FEW_PIXELS = 1024
_FEW_PIXELS = 4
_DENSE_CHANNELS = 1024
# Costs of passes over the maps, in multiplications per entry at the speed of convolutions (benchmarks/engines.py). Each
# convolution with circular padding copies the maps, and with groups it also changes their layout. The transforms are
# those of a forward and a backward pass together.
_WRAPPED_PASSES = 20
_WRAPPED_GROUPED_PASSES = 300
_TRANSFORM_PASSES = 1050
# A complex product is four real ones, and small products are slower than convolutions by this factor.
_COMPLEX_PRODUCT = 2.7 * 4
# Groups with fewer channels convolve more slowly for the work they do.
_CHANNELS_AT_FULL_SPEED = 8
# On fewer pixels, Fourier transforms save nothing.
_SPECTRAL_PIXELS = 16


class Situation(NamedTuple):
    """Everything that the choice depends on.

    Attributes:
        padding_mode, kernel_size: of the convolution.
        channels: number of channels in a group.
        size: height and width of the feature maps, after the stride.
        batch: number of images.
        terms: degree of the series in training.
        training: mode of the layer.
        groups: number of groups that are computed.
        dtype: of the layer's weight.
        autocast: dtype of autocast, or None without it.
    """

    padding_mode: str
    kernel_size: tuple[int, int]
    channels: int
    size: tuple[int, int]
    batch: int
    terms: int
    training: bool
    groups: int = 1
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None


class Choice(NamedTuple):
    """Name of an engine, the reason for choosing it, and the dtype in which it multiplies feature maps."""

    engine: str
    reason: str
    dtype: torch.dtype


def choose_engine(requested: str, situation: Situation) -> Choice:
    """Return the engine for a situation, ``"series"``, ``"spectral"`` or ``"dense"``, the reason, and the dtype.

    Args:
        requested: one of them, or ``"auto"``.
        situation: the layer's settings and the feature maps at hand.

    Raises:
        ValueError: for an unknown engine, and for the spectral engine with zero padding and a kernel larger than 1 x 1.
    """
    if requested not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}, got {requested!r}")
    if requested == "spectral" and situation.padding_mode != "circular" and situation.kernel_size != (1, 1):
        raise ValueError(
            "engine 'spectral' needs padding_mode='circular': with zero padding, frequencies do not decouple; "
            f"got padding_mode={situation.padding_mode!r}, kernel_size={situation.kernel_size}"
        )
    engine, reason = (requested, "requested") if requested != "auto" else _cheapest(situation)
    # In evaluation, the matrices of the other engines are contractions in the dtype of the weight alone.
    reduced = situation.autocast if situation.training or engine == "series" else None
    return Choice(engine, reason, situation.dtype if reduced is None else reduced)


def _cheapest(situation: Situation) -> tuple[str, str]:
    """Return the engine with the lowest cost, and the reason."""
    if situation.kernel_size == (1, 1):
        return _pointwise(situation)
    entries = situation.channels * situation.size[0] * situation.size[1]
    if not situation.training and entries <= (limit := _dense_limit(situation.size)):
        return "dense", f"at most {limit} entries in a group in evaluation: one matrix, cached"
    if situation.padding_mode == "zeros":
        return "series", "zero padding: the exponential is summed as a polynomial"
    if not situation.training:
        return "spectral", "circular padding in evaluation: one exponential for each frequency, cached"
    return _circular_training(situation)


def _pointwise(situation: Situation) -> tuple[str, str]:
    pixels = situation.batch * situation.size[0] * situation.size[1]
    if not situation.training:
        if situation.channels <= _DENSE_CHANNELS:
            return "dense", "a 1 x 1 kernel in evaluation: one matrix exponential, cached"
        return "series", f"more than {_DENSE_CHANNELS} channels in a group: the exponential would cost too much"
    if pixels * (situation.terms - 1) > products_of_a_polynomial(situation.terms) * situation.channels:
        return "dense", "a 1 x 1 kernel on many pixels: the polynomial of its matrix is cheaper than the series"
    return "series", "a 1 x 1 kernel on few pixels: the series is cheaper than the polynomial of its matrix"


def _circular_training(situation: Situation) -> tuple[str, str]:
    height, width = situation.size
    if height * width < _SPECTRAL_PIXELS:
        return "series", f"circular padding on maps of fewer than {_SPECTRAL_PIXELS} pixels"
    pixels = situation.batch * height * width
    taps = situation.kernel_size[0] * situation.kernel_size[1]
    slowness = max(1, _CHANNELS_AT_FULL_SPEED / situation.channels)
    passes = _WRAPPED_GROUPED_PASSES if situation.groups > 1 else _WRAPPED_PASSES
    # Multiplications per channel, in all three products of a forward and a backward pass.
    convolution = 3 * taps * situation.channels * slowness + passes
    series = situation.terms * convolution * pixels
    frequencies = height * (width // 2 + 1)
    matrices = products_of_a_polynomial(situation.terms) * situation.channels + situation.batch
    spectral = 3 * _COMPLEX_PRODUCT * frequencies * situation.channels * matrices + _TRANSFORM_PASSES * pixels
    if spectral < series:
        return "spectral", "circular padding: a polynomial at each frequency is cheaper than the series"
    return "series", "circular padding, but for this batch the series is cheaper than a matrix per frequency"


def _dense_limit(size: tuple[int, int]) -> int:
    return _DENSE_ENTRIES_OF_FEW_PIXELS if size[0] * size[1] <= _FEW_PIXELS else _DENSE_ENTRIES
