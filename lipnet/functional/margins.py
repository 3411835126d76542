"""Margins of logits and the L2 radii that they certify, with every rounding downwards."""

import decimal
import math
import re
from fractions import Fraction

import torch
from torch import Tensor

_RADIUS = re.compile(r"\s*[+-]?(\d+/\d+|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|nan)\s*", re.ASCII | re.IGNORECASE)
STANDARD_RADII: tuple[str, ...] = ("36/255", "72/255", "108/255", "1")
"""The radii that the literature reports: L2, pixels in [0, 1]; :func:`parse_radius` reads them."""


def top_margin(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predicted class and its lead over the runner-up.

    The margin is ``f_(1) - f_(2)``, the largest logit minus the second largest. It is computed in float64 and
    rounded down, so that it never exceeds the exact difference of the given logits. Logits of any floating
    dtype convert to float64 without error. No gradient flows through either result.

    Args:
        logits: scores of shape (B, C), floating, C >= 2.

    Returns:
        prediction: shape (B,), int64, the argmax of each row.
        margin: shape (B,), float64, >= 0; 0 for ties and for every row with a NaN or an infinity.

    Raises:
        ValueError: if ``logits`` is not a floating tensor of shape (B, C) with C >= 2.

    Example:
        >>> prediction, margin = top_margin(torch.tensor([[1.0, 3.5, 0.0], [2.0, 2.0, float("nan")]]))
        >>> prediction.tolist(), margin.tolist()
        ([1, 2], [2.5, 0.0])
    """
    check_logits(logits)
    scores = logits.detach().to(torch.float64)
    largest, second = scores.topk(2, dim=1).values.unbind(dim=1)
    finite = scores.isfinite().all(dim=1)
    margin = torch.where(finite, subtract_downwards(largest, second), 0.0)
    return scores.argmax(dim=1), margin


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless the logits are a floating tensor of shape (B, C) with C >= 2."""
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(
            "logits must be a floating tensor of shape (B, C) with C >= 2, "
            f"got shape {tuple(logits.shape)} and dtype {logits.dtype}"
        )


def certified_radius(logits: Tensor, lipschitz: float, error: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the predicted class and the L2 radius within which it provably stays the prediction.

    The radius is ``(f_(1) - f_(2)) / (sqrt(2) K)``: if the map from pixels to logits is K-Lipschitz in the
    Euclidean norm, a difference of two logits is ``sqrt(2) K``-Lipschitz (Tsuzuku, Sato & Sugiyama, NeurIPS
    2018, arXiv 1802.04034). The subtraction, the product and the quotient are all rounded towards a smaller
    radius: the float64 returned never exceeds the real number, and lies within a few units in its last place.

    With ``error`` E > 0, the given logits and the logits at every perturbed image are each within E of the exact
    ones in the Euclidean norm. Either difference of two logits is then off by at most sqrt(2) E, and the radius
    is ``(f_(1) - f_(2) - 2 sqrt(2) E) / (sqrt(2) K)``, or 0. No gradient flows through either result.

    Args:
        logits: scores of shape (B, C), floating, C >= 2.
        lipschitz: Lipschitz constant K of the map from the pixels, in [0, 1], to the logits; > 0, or infinity
            if none is known, which certifies nothing.
        error: E >= 0, or infinity, which certifies nothing; 0 for exact logits.

    Returns:
        prediction: shape (B,), int64.
        radius: shape (B,), float64, finite and >= 0, in pixels of [0, 1]; 0 for rows with a NaN or an infinity.

    Raises:
        ValueError: if ``lipschitz`` is NaN or not positive, ``error`` is NaN or negative, or ``logits`` is not as
            :func:`top_margin` needs.

    Example:
        >>> prediction, radius = certified_radius(torch.tensor([[0.5, 2.5], [3.0, 0.0]]), lipschitz=1.0)
        >>> prediction
        tensor([1, 0])
        >>> radius
        tensor([1.4142, 2.1213], dtype=torch.float64)
    """
    if not lipschitz > 0:
        raise ValueError(f"lipschitz must be positive or infinite, got {lipschitz}")
    if not error >= 0:
        raise ValueError(f"error must be at least 0 or infinite, got {error}")
    prediction, margin = top_margin(logits)
    if error > 0:
        margin = less_errors(margin, torch.full_like(margin, math.nextafter(2 * math.sqrt(2) * error, math.inf)))
    # math.sqrt(2) lies above the real square root, so only the product needs rounding up.
    divisor = math.nextafter(math.sqrt(2) * float(lipschitz), math.inf)
    # torch may divide by a number as a product with its rounded reciprocal; dividing by a tensor rounds only once.
    quotient = margin / torch.full_like(margin, divisor)
    return prediction, torch.nextafter(quotient, torch.zeros_like(quotient))


def less_errors(margins: Tensor, errors: Tensor) -> Tensor:
    """Subtract errors >= 0 from margins >= 0, rounding down; 0 if nothing is left or the error is infinite."""
    covered = margins > errors
    return torch.where(covered, subtract_downwards(margins, torch.where(covered, errors, 0.0)), 0.0)


def subtract_downwards(minuend: Tensor, subtrahend: Tensor) -> Tensor:
    """Return the largest float64 not above the exact difference of finite numbers, minuend >= subtrahend.

    Knuth's TwoSum gives the rounding error exactly; where it is negative, the difference was rounded up.
    """
    difference = minuend - subtrahend
    rounded_minuend = difference + subtrahend
    rounded_subtrahend = rounded_minuend - difference
    error = (minuend - rounded_minuend) - (subtrahend - rounded_subtrahend)
    below = torch.nextafter(difference, torch.zeros_like(difference))
    # After an overflow, the error is NaN and the difference may be infinite: its finite neighbour below is right.
    return torch.where(error >= 0, difference, below)


def round_down(radius: float, decimals: int = 3) -> str:
    """Return a radius as decimal text that never claims more than the number itself.

    The exact binary value is rounded towards zero. The result is text, not a float, because the float nearest
    to a decimal number may lie above it again.

    Args:
        radius: a finite number >= 0.
        decimals: digits after the point, >= 0.

    Raises:
        ValueError: if ``radius`` is negative, infinite or NaN, or ``decimals`` is negative.

    Example:
        >>> round_down(0.14199, 3), round_down(36 / 255, 4), round_down(0.3, 20)
        ('0.141', '0.1411', '0.29999999999999998889')
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be finite and at least 0, got {radius}")
    if decimals < 0:
        raise ValueError(f"decimals must be at least 0, got {decimals}")
    # A float64 has up to 309 digits before the point: the context must hold them all.
    context = decimal.Context(prec=310 + decimals)
    exact = decimal.Decimal(abs(float(radius)))
    return f"{exact.quantize(decimal.Decimal((0, (1,), -decimals)), decimal.ROUND_FLOOR, context):f}"


def parse_radius(radius: str | float) -> float:
    """Read a radius given as a number or as text: a fraction of integers, or a decimal number.

    Rounding to the nearest float64 is harmless for the strict comparison ``certified > radius``: no float64
    lies strictly between the result and the real number, so it can only err towards "not certified".

    Args:
        radius: such as ``"36/255"``, ``"0.5"``, or the number 0.5 itself; L2, pixels in [0, 1].

    Raises:
        ValueError: if the text is no number, or the number is negative, infinite or NaN.

    Example:
        >>> parse_radius("36/255"), parse_radius("0.5"), parse_radius(1)
        (0.1411764705882353, 0.5, 1.0)
    """
    try:
        if isinstance(radius, str) and not _RADIUS.fullmatch(radius):
            raise ValueError("no fraction of integers and no decimal number")
        value = float(Fraction(radius)) if isinstance(radius, str) and "/" in radius else float(radius)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"radius must be a number such as '36/255' or 0.5, got {radius!r} ({error})") from error
    if not 0 <= value < math.inf:
        raise ValueError(f"radius must be finite and at least 0, got {radius!r}")
    return value
