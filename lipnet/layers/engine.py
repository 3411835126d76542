"""Which way of computing the exponential of a convolution suits a layer: a decision, apart from the computing."""

from typing import NamedTuple

ENGINES = ("auto", "series", "spectral", "dense")

# In evaluation a dense exponential is kept for maps of up to so many entries in a group, and of up to so many if they
# have few pixels, where it saves most: beyond, computing it costs more than it saves on ten thousand images.
_DENSE_ENTRIES = 512
_DENSE_ENTRIES_OF_FEW_PIXELS = 1024
_FEW_PIXELS = 4
_DENSE_CHANNELS = 1024
# What a matrix exponential of norm 1.4 and its backward pass cost, in products of matrices at the speed of convolutions
# (benchmarks/engines.py).
_PRODUCTS_OF_AN_EXPONENTIAL = 250
# Convolutions of groups with fewer channels are slower for what they compute.
_CHANNELS_AT_FULL_SPEED = 8
# Complex products and Fourier transforms reach a fraction of the speed of real convolutions.
_SPECTRAL_OVERHEAD = 4.0
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
        raise ValueError(f"engine must be one of {ENGINES}, received {requested!r}")
    if requested == "spectral" and situation.padding_mode != "circular" and situation.kernel_size != (1, 1):
        raise ValueError(
            "engine 'spectral' needs padding_mode='circular': with zero padding, frequencies do not decouple; "
            f"received padding_mode={situation.padding_mode!r}, kernel_size={situation.kernel_size}"
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
    if 3 * pixels * (situation.terms - 1) > _PRODUCTS_OF_AN_EXPONENTIAL * situation.channels:
        return Choice("dense", "a 1 x 1 kernel on many pixels: one matrix exponential is cheaper than the series")
    return Choice("series", "a 1 x 1 kernel on few pixels: the series is cheaper than a matrix exponential")


def _circular(situation: Situation) -> Choice:
    height, width = situation.size
    if not situation.training:
        if _has_few_entries(situation):
            return Choice("dense", _ONE_MATRIX)
        return Choice("spectral", "circular padding in evaluation: one exponential for each frequency, kept")
    if height * width < _SPECTRAL_PIXELS:
        return Choice("series", f"circular padding on maps of fewer than {_SPECTRAL_PIXELS} pixels")
    taps = situation.kernel_size[0] * situation.kernel_size[1]
    pixels = situation.batch * height * width
    # Multiplications for each channel of a group squared, forward and backward.
    series = 3 * situation.terms * taps * pixels * max(1, _CHANNELS_AT_FULL_SPEED / situation.channels)
    frequencies = height * (width // 2 + 1)
    exponentials = 4 * frequencies * situation.channels * _PRODUCTS_OF_AN_EXPONENTIAL
    products = 3 * 4 * situation.batch * frequencies
    if _SPECTRAL_OVERHEAD * products + exponentials < series:
        return Choice("spectral", "circular padding: an exponential for each frequency is cheaper than the series")
    return Choice("series", "circular padding, but for this batch the series is cheaper than the exponentials")


def _zeros(situation: Situation) -> Choice:
    if not situation.training and _has_few_entries(situation):
        return Choice("dense", _ONE_MATRIX)
    return Choice("series", "zero padding: the exponential is summed as a polynomial")


def _has_few_entries(situation: Situation) -> bool:
    pixels = situation.size[0] * situation.size[1]
    most = _DENSE_ENTRIES_OF_FEW_PIXELS if pixels <= _FEW_PIXELS else _DENSE_ENTRIES
    return situation.channels * pixels <= most
