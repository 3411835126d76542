"""Which way of computing the exponential of a convolution suits a layer: a decision, apart from the computing."""

from typing import NamedTuple

from lipnet.functional import products_of_a_polynomial

ENGINES = ("auto", "series", "spectral", "dense")

# In evaluation a dense exponential is kept for maps of up to so many entries in a group, and of up to so many if they
# have few pixels, where it saves most: beyond, computing it costs more than it saves on ten thousand images.
_DENSE_ENTRIES = 512
_DENSE_ENTRIES_OF_FEW_PIXELS = 1024
_FEW_PIXELS = 4
_DENSE_CHANNELS = 1024
# What passes over the maps cost for each of their numbers, in multiplications at the speed of convolutions: for each
# convolution with circular padding, which copies, and with groups into another layout, too; and for the transforms
# there and back, forward and backward (benchmarks/engines.py).
_PASSES_OF_A_WRAPPED_CONVOLUTION = 20
_PASSES_OF_A_WRAPPED_GROUPED_CONVOLUTION = 300
_PASSES_OF_THE_TRANSFORMS = 1050
# Many small complex products, of four real ones each, reach a fraction of the speed of convolutions.
_COMPLEX_PRODUCT = 2.7 * 4
# Convolutions of groups with fewer channels are slower for what they compute.
_CHANNELS_AT_FULL_SPEED = 8
_ONE_MATRIX = "maps of few entries in a group in evaluation: one matrix, kept"
# Maps with fewer pixels leave Fourier transforms nothing to save.
_SPECTRAL_PIXELS = 16


class Situation(NamedTuple):
    """What the decision rests on."""

    padding_mode: str
    kernel_size: tuple[int, int]
    channels: int  # in a group
    size: tuple[int, int]  # height and width of the maps
    batch: int
    terms: int  # degree of the polynomial that the series would need
    training: bool
    groups: int = 1  # that are computed


class Choice(NamedTuple):
    engine: str
    reason: str


def choose_engine(requested: str, situation: Situation) -> Choice:
    """The engine for a situation: ``"series"``, ``"spectral"`` or ``"dense"``, and why.

    Args:
        requested: one of them, or ``"auto"``.
        situation: the layer's settings and the maps at hand.

    Raises:
        ValueError: if the spectral engine is requested with zero padding and a kernel larger than 1 x 1.
    """
    if requested not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}, got {requested!r}")
    if requested == "spectral" and situation.padding_mode != "circular" and situation.kernel_size != (1, 1):
        raise ValueError(
            "engine 'spectral' needs padding_mode='circular': with zero padding, frequencies do not decouple; "
            f"got padding_mode={situation.padding_mode!r}, kernel_size={situation.kernel_size}"
        )
    if requested != "auto":
        return Choice(requested, "requested")
    if situation.kernel_size == (1, 1):
        return _pointwise(situation)
    if situation.padding_mode == "circular":
        return _circular(situation)
    return _zeros(situation)


def _pointwise(situation: Situation) -> Choice:
    pixels = situation.batch * situation.size[0] * situation.size[1]
    if not situation.training:
        if situation.channels <= _DENSE_CHANNELS:
            return Choice("dense", "a 1 x 1 kernel in evaluation: one matrix exponential, kept")
        return Choice("series", f"more than {_DENSE_CHANNELS} channels in a group: the exponential would cost too much")
    if pixels * (situation.terms - 1) > products_of_a_polynomial(situation.terms) * situation.channels:
        return Choice("dense", "a 1 x 1 kernel on many pixels: the polynomial of its matrix is cheaper than the series")
    return Choice("series", "a 1 x 1 kernel on few pixels: the series is cheaper than the polynomial of its matrix")


def _circular(situation: Situation) -> Choice:
    height, width = situation.size
    if not situation.training:
        if _has_few_entries(situation):
            return Choice("dense", _ONE_MATRIX)
        return Choice("spectral", "circular padding in evaluation: one exponential for each frequency, kept")
    if height * width < _SPECTRAL_PIXELS:
        return Choice("series", f"circular padding on maps of fewer than {_SPECTRAL_PIXELS} pixels")
    pixels = situation.batch * height * width
    taps = situation.kernel_size[0] * situation.kernel_size[1]
    slowness = max(1, _CHANNELS_AT_FULL_SPEED / situation.channels)
    grouped = situation.groups > 1
    passes = _PASSES_OF_A_WRAPPED_GROUPED_CONVOLUTION if grouped else _PASSES_OF_A_WRAPPED_CONVOLUTION
    # Multiplications for each channel, in all three products of a forward and a backward pass.
    convolution = 3 * taps * situation.channels * slowness + passes
    series = situation.terms * convolution * pixels
    frequencies = height * (width // 2 + 1)
    matrices = products_of_a_polynomial(situation.terms) * situation.channels + situation.batch
    spectral = 3 * _COMPLEX_PRODUCT * frequencies * situation.channels * matrices + _PASSES_OF_THE_TRANSFORMS * pixels
    if spectral < series:
        return Choice("spectral", "circular padding: a polynomial at each frequency is cheaper than the series")
    return Choice("series", "circular padding, but for this batch the series is cheaper than a matrix per frequency")


def _zeros(situation: Situation) -> Choice:
    if not situation.training and _has_few_entries(situation):
        return Choice("dense", _ONE_MATRIX)
    return Choice("series", "zero padding: the exponential is summed as a polynomial")


def _has_few_entries(situation: Situation) -> bool:
    pixels = situation.size[0] * situation.size[1]
    most = _DENSE_ENTRIES_OF_FEW_PIXELS if pixels <= _FEW_PIXELS else _DENSE_ENTRIES
    return situation.channels * pixels <= most
