"""Certificates of a model on images: prediction, certified L2 radius and correctness of each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipnet.certify.bound import check_running
from lipnet.certify.logits import LogitBounds, logit_bounds
from lipnet.certify.precision import dot_product_arithmetic, ieee_arithmetic
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.layers.explicit import explicit_products


@dataclass(frozen=True)
class Certificates:
    """What was certified of B images; all tensors on the CPU.

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
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 256,
    lipschitz: LogitBounds | float | None = None,
    rounding: RoundingBounds | None = None,
    ignore_rounding: bool = False,
) -> Certificates:
    """Certify a model on images, on the device that the model has, in float64.

    radius = (f_(1) - f_(2) - 2 sqrt(2) E) / (sqrt(2) K), K being the model's Lipschitz bound in its input pixels and E
    a bound on the rounding of its logits; with a last layer that declares bounds D of its own for each difference of
    two logits, radius = min over j of (f_y - f_j - 2 E[y, j]) / D[y, j]. So it is true of the logits as they are
    computed within `explicit_arithmetic`, for every image in the ball whose pixels are in [0, 1].

    In float32 no bound on the rounding leaves anything of a radius. With ``ignore_rounding`` a model in float32 is
    certified as if its arithmetic were exact: the radii say nothing of those images whose margin rounding can turn.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode.
        images: (B, C, H, W), pixels in [0, 1].
        labels: the true classes, integers (B,).
        batch_size: images that go through the model at once.
        lipschitz: the `logit_bounds` of exactly these weights, if they have already been computed; a number is K.
        rounding: the `rounding_bounds` of exactly these weights and images of this shape, if they have already been.
        ignore_rounding: must be True for a model in another dtype than float64, and False for one in float64.

    Raises:
        ValueError: for pixels that are NaN or out of range, shapes that do not fit, a model that `lipschitz_bound`
            refuses, and an ``ignore_rounding`` that is not the dtype's.
        TypeError: for a module without a rule.

    Source: Tsuzuku, Sato & Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018 (arXiv 1802.04034); for each pair of
    logits: Singla, Singla & Feizi, ICLR 2022 (arXiv 2108.04062).
    """
    _check_images(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_running(model)
    bounds = logit_bounds(model) if lipschitz is None else lipschitz
    if not isinstance(bounds, LogitBounds):
        bounds = LogitBounds(bounds)
    _check_dtype(model, ignore_rounding)
    if rounding is None and not ignore_rounding:
        rounding = rounding_bounds(model, tuple(images.shape[1:]))
    errors = (0.0, None) if rounding is None else (rounding.logits, rounding.pairwise)
    parts = []
    batches: tuple[Tensor, ...] = torch.split(images, batch_size)
    with explicit_arithmetic(model):
        for batch in batches:
            parts.append(bounds.certified_radius(logits_of(model, batch), *errors))
    prediction, radius = (torch.cat(values) for values in zip(*parts, strict=True))
    return Certificates(prediction, radius, prediction == labels.cpu())


@contextmanager
def explicit_arithmetic(model: nn.Module) -> Iterator[None]:
    """Within the context a model computes the logits that its certificates speak of; restored at the end.

    In float64: sums of products alone, whose rounding `rounding_bounds` bounds. In another dtype: the model as it is,
    in that dtype's own arithmetic.
    """
    reference = reference_tensor(model)
    if reference.dtype != torch.float64:
        with ieee_arithmetic(reference.device):
            yield
    else:
        with explicit_products(model), dot_product_arithmetic(reference.device):
            yield


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The model's logits of a batch, on the CPU, without gradients, in the arithmetic of the context."""
    reference = reference_tensor(model)
    with torch.no_grad():
        logits: Tensor = model(images.to(reference.device, reference.dtype))
    return logits.cpu()


def reference_tensor(model: nn.Module) -> Tensor:
    """A tensor with the device and the dtype of a model's arithmetic: those of its first parameter, or float64."""
    return next(model.parameters(), torch.empty(0, dtype=torch.float64))


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


def _check_images(images: Tensor, labels: Tensor) -> None:
    if images.dim() != 4 or not images.is_floating_point() or len(images) == 0:
        raise ValueError(
            f"images must be floating and of shape (B, C, H, W), B >= 1, got {images.dtype} {tuple(images.shape)}"
        )
    whole = labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if labels.shape != images.shape[:1] or not whole:
        raise ValueError(
            f"labels must be {len(images)} integers, one for each image, got {labels.dtype} {tuple(labels.shape)}"
        )
    if not bool(images.isfinite().all()):
        count = int((~images.isfinite()).flatten(1).any(dim=1).sum())
        raise ValueError(f"pixels must be numbers in [0, 1], got NaN or infinity in {count} of {len(images)} images")
    lowest, highest = float(images.min()), float(images.max())
    if lowest < 0 or highest > 1:
        raise ValueError(f"pixels must lie in [0, 1], got [{lowest:g}, {highest:g}]: the model normalises by itself")
