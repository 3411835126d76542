"""Certified radii from a separate Lipschitz constant for each difference of two logits."""

import math

import torch
from torch import Tensor

from lipnet.functional.margins import check_logits, less_errors, subtract_downwards
from lipnet.functional.rounding import to_float64

# Room for the rounding of a float64 norm.
_ROUNDING = 1 + 1e-10
# Shorter distances count as this one: the squares of smaller entries may underflow.
_SMALLEST_DISTANCE = 1e-150


def row_distances(rows: Tensor) -> Tensor:
    """Bound the Euclidean distances ||w_i - w_j|| between the rows of a matrix from above; no bound is 0.

    Each bound is within 1e-10 (relative) of the true distance, and at least 1e-150.

    Args:
        rows: shape (C, F), floating.

    Returns:
        Shape (C, C), float64, symmetric; infinite for rows with a NaN or an infinity.

    Example:
        >>> distances = row_distances(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        >>> [round(value, 4) for value in distances[2].tolist()]
        [0.8944, 0.6325, 0.0]
    """
    exact = to_float64(rows.detach())
    # One row at a time: all differences together would need C times the memory of the rows.
    distances = torch.stack([torch.linalg.vector_norm(exact - row, dim=1) for row in exact]) * _ROUNDING
    return distances.nan_to_num(nan=math.inf, posinf=math.inf).clamp_min(_SMALLEST_DISTANCE)


def scale_up(bounds: Tensor, factor: float) -> Tensor:
    """Multiply float64 bounds >= 0 by a factor >= 0, rounding up; infinite if either is infinite."""
    # Infinity times 0 gives NaN.
    return torch.nextafter(bounds * factor, torch.full_like(bounds, math.inf)).nan_to_num(nan=math.inf, posinf=math.inf)


def pairwise_certified_radius(logits: Tensor, bounds: Tensor, errors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the predicted class and the L2 radius within which it provably stays the prediction.

    The radius is ``min over j != y of (f_y - f_j) / D[y, j]``, where D[y, j] bounds the Lipschitz constant of the
    difference f_y - f_j. The minimum is over **all** classes: a class behind the runner-up may be nearer if its D is
    larger. All roundings are towards a smaller radius, as in :func:`lipnet.functional.margins.certified_radius`. With
    errors, f_y - f_j - 2 errors[y, j] replaces f_y - f_j. No gradient flows through either result.

    Args:
        logits: scores of shape (B, C), floating, C >= 2.
        bounds: D, float64 of shape (C, C), positive, or infinite (certifying nothing); its diagonal is not read.
        errors: upper bounds on the distance of a computed f_i - f_j from the exact one, float64 of shape (C, C), not
            negative, or infinite (certifying nothing); its diagonal is not read. None for exact logits.

    Returns:
        prediction: shape (B,), int64, the argmax of each row.
        radius: shape (B,), float64, finite and >= 0, in pixels of [0, 1] if D is; 0 for ties and for rows with a NaN or
            an infinity.

    Raises:
        ValueError: for another shape or dtype, a bound that is NaN, negative or 0, or an error that is NaN or negative.

    Source: Singla, Singla & Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", ICLR 2022
    (arXiv 2108.04062), section 4.

    Example:
        >>> bounds = torch.tensor([[1.0, 1.0, 4.0], [1.0, 1.0, 4.0], [4.0, 4.0, 1.0]], dtype=torch.float64)
        >>> prediction, radius = pairwise_certified_radius(torch.tensor([[3.0, 2.0, 1.0]]), bounds)
        >>> prediction.item(), round(radius.item(), 6)
        (0, 0.5)
    """
    check_logits(logits)
    _check_pairs("bounds", bounds, logits.shape[1])
    wrong = bounds[~(bounds > 0).fill_diagonal_(True)]
    if len(wrong):
        raise ValueError(f"bounds of different logits must be positive or infinite, got {float(wrong[0])}")
    if errors is not None:
        _check_pairs("errors", errors, logits.shape[1])
        wrong = errors[~(errors >= 0).fill_diagonal_(True)]
        if len(wrong):
            raise ValueError(f"errors of different logits must be at least 0 or infinite, got {float(wrong[0])}")
    scores = logits.detach().to(torch.float64)
    prediction = scores.argmax(dim=1)
    finite = scores.isfinite().all(dim=1)
    scores = torch.where(finite.unsqueeze(1), scores, 0.0)
    place = prediction.unsqueeze(1)
    margins = subtract_downwards(scores.gather(1, place), scores)
    if errors is not None:
        # Doubling is exact.
        margins = less_errors(margins, 2 * errors.to(scores.device)[prediction])
    quotients = margins / bounds.to(scores.device)[prediction]
    nearest = quotients.scatter(1, place, math.inf).amin(dim=1)
    return prediction, torch.nextafter(nearest, torch.zeros_like(nearest))


def _check_pairs(name: str, values: Tensor, classes: int) -> None:
    if values.shape != (classes, classes) or values.dtype != torch.float64:
        raise ValueError(
            f"{name} must be float64 of shape {(classes, classes)}, one for each pair of logits, "
            f"got shape {tuple(values.shape)} and dtype {values.dtype}"
        )
