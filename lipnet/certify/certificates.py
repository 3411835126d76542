"""Certify images with a model: for each, the prediction, a certified L2 radius, and whether it is correct."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipnet.certify.arithmetic import explicit_arithmetic, ieee_arithmetic, logits_of, reference_tensor
from lipnet.certify.bounds import LogitBounds, logit_bounds
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.inputs import ArrayLike, checked_batches
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.certify.rules import children_in_order
from lipnet.certify.trial_run import run_in_order
from lipnet.layers.identity import of_lipnet_or_torch, state_of

_CHANGED = (
    "the model was changed while its certificates were computed; change it before or after, or certify a copy.deepcopy "
    "of it"
)


@dataclass(frozen=True)
class Certificates:
    """Certificates of B images; all tensors on the CPU.

    Attributes:
        prediction: the predicted classes, int64 (B,).
        radius: float64 (B,): no image within this L2 distance (pixels in [0, 1]) has another prediction; rounded down,
            and 0 where nothing is certified.
        correct: whether the prediction is the label, bool (B,).
    """

    prediction: Tensor
    radius: Tensor
    correct: Tensor


def certify(
    model: nn.Module,
    images: ArrayLike | DataLoader[Any],
    labels: ArrayLike | None = None,
    *,
    batch_size: int = 256,
    lipschitz: LogitBounds | float | None = None,
    rounding: RoundingBounds | None = None,
    ignore_rounding: bool = False,
) -> Certificates:
    """Certify a float64 model on images, on the model's device.

    radius = (f_(1) - f_(2) - 2 sqrt(2) E) / (sqrt(2) K), where K is the model's Lipschitz bound from pixels to logits,
    and E a bound on the rounding of its logits. If the last layer declares bounds D for the differences of two logits,
    radius = min over j of (f_y - f_j - 2 E[y, j]) / (K D[y, j]), with K of the layers before it. The radius holds for
    the logits as computed within `explicit_arithmetic`, for every image in the ball whose pixels are in [0, 1]. Several
    threads may certify one model; they take turns.

    In float32, a bound on the rounding would leave no radius above 0. With ``ignore_rounding``, a float32 model is
    certified as if its arithmetic were exact. Such a certificate does not cover predictions that rounding changes.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode, on any device.
        images: (B, C, H, W), pixels in [0, 1]: a tensor, an array, or a list; or a ``DataLoader`` of images and labels,
            whose images must all have one shape.
        labels: the true classes, integers (B,); None for a ``DataLoader``, which has them.
        batch_size: images per forward pass; a ``DataLoader`` has its own.
        lipschitz: the `logit_bounds` of exactly these weights, if already computed; a number is K.
        rounding: the `rounding_bounds` of exactly these weights and images of this shape, if already computed; None
            with ``ignore_rounding``.
        ignore_rounding: must be False for a float64 model, and True for a model in any other dtype.

    Raises:
        ValueError: for pixels that are NaN or out of range, labels that are not classes of the model, shapes that do
            not fit, a model that `lipschitz_bound` refuses, logits that do not depend on the image (K = 0), and an
            ``ignore_rounding`` that does not fit the dtype, or comes with ``rounding``.
        TypeError: for a module without a rule.
        RuntimeError: if another thread changes torch's settings or the model meanwhile, for instance by training it.

    Source: Tsuzuku, Sato & Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018 (arXiv 1802.04034); for each pair of
    logits: Singla, Singla & Feizi, ICLR 2022 (arXiv 2108.04062).
    """
    batches = checked_batches(images, labels, batch_size)
    check_computes_as_declared(model)
    before = state_of(model)
    bounds = logit_bounds(model) if lipschitz is None else lipschitz
    if not isinstance(bounds, LogitBounds):
        bounds = LogitBounds(bounds)
    if bounds.lipschitz == 0:
        raise ValueError("the model's Lipschitz bound is 0: its logits do not depend on the image; nothing to certify")
    _check_dtype(model, ignore_rounding)
    parts = []
    shape: tuple[int, ...] | None = None
    given = rounding
    for batch, batch_labels in batches:
        if shape is None:
            shape = tuple(batch.shape[1:])
            rounding = _rounding_for(model, shape, given, ignore_rounding)
        if shape != tuple(batch.shape[1:]):
            raise ValueError(f"all images must have one shape, got {shape} and {tuple(batch.shape[1:])}")
        errors = (0.0, None) if rounding is None else (rounding.logits, rounding.pairwise)
        with explicit_arithmetic(model):
            logits = logits_of(model, batch)
        if state_of(model) != before:
            raise RuntimeError(_CHANGED)
        check_computes_as_declared(model)  # a hook may have come meanwhile
        _check_classes(batch_labels, logits.shape[1])
        prediction, radius = bounds.certified_radius(logits, *errors)
        parts.append((prediction, radius, prediction == batch_labels.cpu()))
    check_own_modules(model, bounds if lipschitz is None else None, rounding if given is None else None)
    return Certificates(*(torch.cat(values) for values in zip(*parts, strict=True)))


def check_own_modules(
    model: nn.Module, bounds: LogitBounds | None, rounding: RoundingBounds | None = None, *, estimate: bool = False
) -> None:
    """Raise RuntimeError if the bounds of a model with modules of your own have grown since they were computed.

    `state_of` leaves out the settings of these modules, which may count calls.

    Args:
        bounds, rounding: the earlier bounds; None if they are not to be compared.
        estimate: as for `logit_bounds`.
    """
    if all(of_lipnet_or_torch(each) or children_in_order(each) is not None for each in model.modules()):
        return
    pairs: list[tuple[Any, Any, float]] = []
    if bounds is not None:
        now = logit_bounds(model, estimate=estimate)
        pairs += [(bounds.lipschitz, now.lipschitz, 1e-9), (bounds.pairwise, now.pairwise, 1e-9)]
    if rounding is not None and rounding.modules:
        again = rounding_bounds(model, rounding.modules[0].shape)
        # Rounded up to 20 binary digits.
        pairs += [(rounding.logits, again.logits, 1e-5), (rounding.pairwise, again.pairwise, 1e-5)]
    # The room is for sums in another order.
    for before, after, room in pairs:
        if before is not None:
            most, grown = (torch.as_tensor(each, dtype=torch.float64) for each in (before, after))
            if not bool((grown <= most * (1 + room)).all()):
                raise RuntimeError(_CHANGED)


def _rounding_for(
    model: nn.Module, shape: tuple[int, ...], given: RoundingBounds | None, ignored: bool
) -> RoundingBounds | None:
    """Return the bounds on the rounding for images of a shape: the given ones, or new ones unless they are ignored."""
    if ignored:
        if given is not None:
            raise ValueError("rounding must be None with ignore_rounding=True, got bounds: leave one of the two out")
        run_in_order(model, shape)
        return None
    if given is None:
        return rounding_bounds(model, shape)
    if given.modules and given.modules[0].shape != shape:
        stated = given.modules[0].shape
        raise ValueError(f"the images have shape {shape}, and the rounding is that of images of shape {stated}")
    return given


@dataclass(frozen=True)
class Deviation:
    """Measured distances of deployed logits from certified ones: the largest Euclidean norms over a batch.

    Attributes:
        images: number of images.
        float64: distance of the logits if the model is deployed in float64, with the fastest algorithms.
        float32: distance of the logits in float32.
        float32_predictions: number of images whose prediction changes in float32.
    """

    images: int
    float64: float
    float32: float
    float32_predictions: int


def measured_deviation(model: nn.Module, images: Tensor) -> Deviation:
    """Measure how far deployed logits, in float64 and in float32, are from the certified ones on the same images.

    Args:
        model: float64, in evaluation mode; it is not changed.
        images: (B, C, H, W), pixels in [0, 1].

    Raises:
        ValueError: for a model in another dtype.

    Example:
        >>> from lipnet.layers import SOC
        >>> model = nn.Sequential(SOC(3, 4), nn.Flatten(), nn.Linear(4 * 64, 10)).double().eval()
        >>> deviation = measured_deviation(model, torch.rand(5, 3, 8, 8))
        >>> deviation.float64 < 1e-12 < deviation.float32 < 1e-4
        True
    """
    reference = reference_tensor(model)
    if reference.dtype != torch.float64:
        raise ValueError(f"the model must be in float64, got {reference.dtype}: call model.double() first")
    with explicit_arithmetic(model):
        certified = logits_of(model, images)
    with ieee_arithmetic(reference.device):
        deployed = logits_of(model, images)
        single = logits_of(deepcopy(model).float().requires_grad_(False), images.float()).double()
    return Deviation(
        images=len(images),
        float64=float((deployed - certified).norm(dim=1).max()),
        float32=float((single - certified).norm(dim=1).max()),
        float32_predictions=int((single.argmax(dim=1) != certified.argmax(dim=1)).sum()),
    )


def _check_classes(labels: Tensor, classes: int) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(f"labels must be classes 0 to {classes - 1} of the model, got {lowest} to {highest}")


def _check_dtype(model: nn.Module, ignore_rounding: bool) -> None:
    dtype = reference_tensor(model).dtype
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float64 and ignore_rounding:
        raise ValueError(
            f"the model is in {name}, where radii always cover the rounding: ignore_rounding must be False"
        )
    if dtype != torch.float64 and not ignore_rounding:
        raise ValueError(
            f"the model is in {name}, where no radius would be left if it covered the rounding: certify "
            "model.double(), or pass ignore_rounding=True for radii as if the arithmetic were exact"
        )
