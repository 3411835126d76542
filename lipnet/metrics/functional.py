"""Certified accuracy and average certified radius as functions: validate, update, compute.

A sample is certified at radius r if its prediction is correct and its certified radius is greater than r, because the
ball is open. A NaN or infinite radius is not a certificate and counts as 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lipnet.functional.margins import STANDARD_RADII, parse_radius


def certified_accuracy(radius: Tensor, correct: Tensor, radii: Sequence[str | float] = STANDARD_RADII) -> Tensor:
    """Compute the fraction of samples that are correct and certified beyond each of ``radii``.

    Args:
        radius: certified L2 radius of each sample, shape (B,), floating, for pixels in [0, 1].
        correct: whether each prediction is the label, shape (B,), bool.
        radii: the R radii to report, each a fraction, a decimal or a number, such as ``"36/255"``.

    Returns:
        Shape (R,), float64, each in [0, 1]; NaN without samples.

    Raises:
        ValueError: a shape or dtype differs, or ``radii`` is empty, repeats a radius or holds one that cannot be
            parsed.

    Example:
        >>> radius = torch.tensor([0.50, 0.20, 0.90, 0.10])
        >>> correct = torch.tensor([True, True, False, True])
        >>> certified_accuracy(radius, correct, ["36/255", "72/255"])
        tensor([0.5000, 0.2500], dtype=torch.float64)
    """
    _, thresholds = check_radii(radii)
    _samples_validation(radius, correct)
    certified, total = _certified_accuracy_update(radius, correct, thresholds)
    return certified.to(torch.float64) / total


def average_certified_radius(radius: Tensor, correct: Tensor) -> Tensor:
    """Compute the average certified radius (ACR): the mean radius of the correctly predicted samples.

    Some papers divide by the number of all samples instead (Zhai et al., MACER, ICLR 2020, arXiv 2001.02378), which
    gives this value times the clean accuracy.

    Args:
        radius: certified L2 radius of each sample, shape (B,), floating, for pixels in [0, 1]. NaN, infinite and
            negative radii count as 0, and their samples still count as correct.
        correct: whether each prediction is the label, shape (B,), bool.

    Returns:
        A scalar, float64, for pixels in [0, 1]; NaN if no sample is correct.

    Raises:
        ValueError: a shape or dtype differs.

    Example:
        >>> radius = torch.tensor([0.50, 0.20, 0.90, 0.10])
        >>> correct = torch.tensor([True, True, False, True])
        >>> average_certified_radius(radius, correct)
        tensor(0.2667, dtype=torch.float64)
    """
    _samples_validation(radius, correct)
    return _proven_radius(radius, correct).sum() / correct.sum()


def check_radii(radii: Sequence[str | float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Check radii, and return their names and values; errors as in `certified_accuracy`."""
    if isinstance(radii, str) or len(radii) == 0:
        raise ValueError(f"radii must be a sequence of at least one radius, got {radii!r}")
    names = tuple(str(radius) for radius in radii)
    if len(set(names)) < len(names):
        raise ValueError(f"radii must name each radius once, got {names}")
    return names, tuple(parse_radius(radius) for radius in radii)


def _samples_validation(radius: Tensor, correct: Tensor) -> None:
    if radius.ndim != 1 or not radius.is_floating_point():
        raise ValueError(
            f"radius must be a floating tensor of shape (B,), got shape {tuple(radius.shape)} and dtype {radius.dtype}"
        )
    if correct.shape != radius.shape or correct.dtype != torch.bool:
        raise ValueError(
            f"correct must be a bool tensor of the same shape as radius, {tuple(radius.shape)}, got shape "
            f"{tuple(correct.shape)} and dtype {correct.dtype}"
        )


def _proven_radius(radius: Tensor, correct: Tensor) -> Tensor:
    """Return the radius within which the correct prediction is proven, float64; 0 where nothing is proven."""
    proven = correct & radius.isfinite()
    return torch.where(proven, radius.detach().to(torch.float64), 0.0).clamp(min=0.0)


def _certified_accuracy_update(radius: Tensor, correct: Tensor, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Count the samples certified beyond each threshold, shape (R,), and all samples, both int64."""
    limits = torch.tensor(thresholds, dtype=torch.float64, device=radius.device)
    certified = _proven_radius(radius, correct).unsqueeze(1) > limits
    return certified.sum(dim=0), torch.tensor(radius.numel(), device=radius.device)
